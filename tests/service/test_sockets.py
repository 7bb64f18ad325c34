"""A listening socket that ignores new attempts, and loses none of those that came before."""

import socket

import pytest

from torchrec_priors.service.listening import open_socket
from torchrec_priors.service.sockets import drop_attempts, has_input


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_attempts_are_dropped_and_connections_stay(host):
    with open_socket(host, 0) as bound:
        address = bound.getsockname()[:2]
        assert not has_input(bound.fileno())
        with socket.create_connection(address, timeout=5) as before:
            drop_attempts(bound)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.1)

            assert has_input(bound.fileno())
            accepted, _ = bound.accept()
            assert not has_input(bound.fileno())
            with accepted:
                before.sendall(b"hello")
                assert accepted.recv(5) == b"hello"
                accepted.sendall(b"again")
                assert before.recv(5) == b"again"

    # Nobody listens any more.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
