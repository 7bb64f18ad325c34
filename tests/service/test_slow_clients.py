"""Clients that read slowly, send slowly or do nothing do not stop the others."""

import socket
import time
from contextlib import ExitStack

import pytest
from service.running import call
from service.running import service as process

pytestmark = pytest.mark.slow

IDLE = 500
LARGE = b'{"requests":[' + b",".join([b'{"user":9,"k":100,"explain":true}'] * 250) + b"]}"


def test_slow_clients_do_not_stop_others(groups_run, tmp_path):
    state = f"sqlite:{tmp_path}/s.sqlite"
    options = ("--deadline-ms", 60_000)
    with process("--run", groups_run, "--state", state, *options) as service, ExitStack() as open_:
        port = service.port

        def connect():
            return open_.enter_context(socket.create_connection(("127.0.0.1", port), 60))

        for _ in range(IDLE):
            connect()
        senders = [connect() for _ in range(20)]
        for sender in senders:
            sender.sendall(
                b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{"
            )
        readers = [connect() for _ in range(5)]
        for reader in readers:
            # It asks again and again, and reads nothing.
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            reader.sendall(head % len(LARGE) + LARGE)

        began = time.monotonic()
        for _ in range(30):
            status, answer = call(port, "POST", "/v1/recommend", {"user": 9})
            assert (status, len(answer["items"])) == (200, 10)
            for sender in senders:
                sender.sendall(b" ")
        assert time.monotonic() - began < 60
        assert call(port, "GET", "/health/ready")[0] == 200

        # A body that does not come in time is answered with 408.
        senders[0].settimeout(60)
        assert b" 408 " in senders[0].recv(100)
