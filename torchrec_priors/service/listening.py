"""The address of the service, and who may reach it."""

import errno
import ipaddress
import socket
from pathlib import Path

from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError

_MOST_PORTS = 1 << 16
_SHORTEST_TOKEN = 16  # characters


def open_socket(host: str, port: int) -> socket.socket:
    """Binds the address of the service. A port that is in use is noticed before a model is loaded.

    Args:
        host: an address or a name of this machine.
        port: the port; 0 for any free one.

    Raises:
        UserError: the address cannot be used.
    """
    if not 0 <= port < _MOST_PORTS:
        raise UserError(f"--port must be from 0 to {_MOST_PORTS - 1}, not {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise _no_address(host) from error

    bound = socket.socket(family, kind, protocol)
    try:
        # A service that starts again must not wait for old connections to time out.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()
    except OSError as error:
        bound.close()
        raise _explained(error, host, port) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Returns the address of a bound socket as a URL."""
    host, port = bound.getsockname()[:2]
    if bound.family == socket.AF_INET6:
        host = f"[{host}]"
    return f"http://{host}:{port}"


def check_safe(host: str, token: str | None, *, is_open: bool) -> None:
    """Raises UserError if other machines could use the service although nobody has allowed it."""
    if token is not None and is_open:
        raise UserError(
            "--open: everybody may call the service, but --token-file is given: drop one"
        )
    if token is None and not is_open and not _is_loopback(host):
        raise UserError(
            f"--host: other machines may reach '{host}': give --token-file FILE, or --open to let "
            "everybody call the service"
        )


def hosts_of(host: str) -> frozenset[str] | None:
    """Returns the names by which clients may call; None for any name.

    A page of another site can make a browser call a service of this machine by the name of the
    site. So a service that only this machine can reach is called by the names of this machine.
    """
    if not _is_loopback(host):
        return None
    return frozenset(("localhost", "127.0.0.1", "[::1]", host.lower()))


def read_token(file: Path) -> str:
    """Reads the token that calls must carry.

    Raises:
        UserError: there is no such file, or its content is no token.
    """
    with explaining(f"--token-file: cannot read '{file}'"):
        try:
            token = file.read_text(encoding="ascii").strip()
        except FileNotFoundError as error:
            raise UserError(f"--token-file: there is no file '{file}'") from error
        except UnicodeDecodeError as error:
            raise UserError(f"--token-file: '{file}' has characters that are not ASCII") from error
    if len(token) < _SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise UserError(
            f"--token-file: '{file}' must contain one word of {_SHORTEST_TOKEN} characters and "
            f"more: write one with `openssl rand -hex 32 > {file}`"
        )
    return token


def _is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach an address."""
    try:
        addresses = [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError) as error:
        raise _no_address(host) from error
    return all(ipaddress.ip_address(text.partition("%")[0]).is_loopback for text in addresses)


def _no_address(host: str) -> UserError:
    return UserError(
        f"--host: '{host}' is no address of this machine: give 127.0.0.1, or 0.0.0.0 for all"
    )


def _explained(error: OSError, host: str, port: int) -> UserError:
    """Returns the error of an address that cannot be bound."""
    if error.errno == errno.EADDRINUSE:
        return UserError(
            f"--port: {port} is in use on '{host}': give another port, or 0 for any free one"
        )
    if error.errno == errno.EACCES:
        return UserError(f"--port: {port} needs permission: give a port from 1024 on")
    return _no_address(host)
