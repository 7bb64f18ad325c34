"""The address of the service: who may reach it, and what is said if it cannot be used."""

import socket

import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.service.listening import (
    check_safe,
    hosts_of,
    open_socket,
    read_token,
    url_of,
)

TOKEN = "a" * 32


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost"])
def test_this_machine_may_always_call(host):
    check_safe(host, None, is_open=False)
    check_safe(host, TOKEN, is_open=False)
    assert {"localhost", "127.0.0.1", "[::1]", host} == hosts_of(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_other_machines_may_call_only_if_somebody_has_allowed_it(host):
    with pytest.raises(UserError, match="--token-file FILE, or --open"):
        check_safe(host, None, is_open=False)
    check_safe(host, TOKEN, is_open=False)
    check_safe(host, None, is_open=True)
    with pytest.raises(UserError, match="--open"):
        check_safe(host, TOKEN, is_open=True)
    assert hosts_of(host) is None


def test_a_socket_listens_at_its_url():
    with open_socket("localhost", 0) as bound:
        url = url_of(bound)
        host, port = url.removeprefix("http://").rsplit(":", 1)
        socket.create_connection((host, int(port)), timeout=5).close()


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("127.0.0.1", -1, "--port must be from 0 to 65535"),
        ("127.0.0.1", 65536, "--port must be from 0 to 65535"),
        ("192.0.2.1", 0, "--host: '192.0.2.1' is no address of this machine"),
        ("no such name", 0, "--host: 'no such name' is no address of this machine"),
        ("a" * 80, 0, "is no address of this machine"),
    ],
)
def test_an_address_that_cannot_be_used(host, port, says):
    with pytest.raises(UserError, match=says):
        open_socket(host, port)


def test_a_port_in_use():
    with open_socket("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(UserError, match=f"--port: {port} is in use"):
            open_socket("127.0.0.1", port)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no file"),
        (b"", "must contain one word"),
        (b"short\n", "must contain one word"),
        (b"two words of enough length", "must contain one word"),
        (b"a" * 20 + b"\n" + b"b" * 20, "must contain one word"),
        ("ü".encode() * 20, "not ASCII"),
    ],
)
def test_a_file_that_holds_no_token(content, says, tmp_path):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=says) as raised:
        read_token(file)
    assert str(raised.value).startswith("--token-file: ")
    assert "short" not in str(raised.value)


def test_a_token_is_read_without_the_white_space_around_it(tmp_path):
    file = tmp_path / "token"
    file.write_text(f" {TOKEN}\r\n")
    assert read_token(file) == TOKEN
