"""A connection of HTTP/1.1 for measurements: it knows as much of the protocol as they need.

It sends requests that are given as bytes, and reads answers with a Content-Length.
"""

import asyncio

_MOST_BYTES = 1 << 24  # of an answer
_END_OF_HEAD = b"\r\n\r\n"


class BrokenAnswerError(Exception):
    """An answer is not what this client can read."""


class Connection(asyncio.Protocol):
    """A connection that sends one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[int] | None = None

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> "asyncio.Future[int]":
        """Sends a request; the result is the status of the answer."""
        assert self._answer is None
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Closes the connection; a request without an answer is lost."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            read = read_answer(self._received)
        except BrokenAnswerError as error:
            self._fail(error)
            self.close()
            return
        if read is None:
            return

        status, length, stays_open = read
        del self._received[:length]
        if not stays_open:
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)
        self._answer = None

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionResetError("the service closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self._answer = None


def read_answer(received: bytes | bytearray) -> tuple[int, int, bool] | None:
    """Reads the answer at the beginning of what was received.

    Returns:
        Its status, the number of its bytes, and whether the connection stays open; None if some
        bytes have not come yet.

    Raises:
        BrokenAnswerError: it is no answer of HTTP/1.1, or has no Content-Length, or is too long.
    """
    end = received.find(_END_OF_HEAD)
    if end < 0:
        if len(received) > _MOST_BYTES:
            raise BrokenAnswerError("the headers do not end")
        return None

    lines = bytes(received[:end]).lower().split(b"\r\n")
    parts = lines[0].split(b" ", 2)
    if len(parts) < 2 or parts[0] != b"http/1.1" or not parts[1].isdigit():
        raise BrokenAnswerError(f"no answer of HTTP/1.1: {lines[0][:80]!r}")
    headers = dict(line.split(b":", 1) for line in lines[1:] if b":" in line)
    length = headers.get(b"content-length", b"").strip()
    if not length.isdigit() or int(length) > _MOST_BYTES:
        raise BrokenAnswerError("the answer has no usable Content-Length")

    whole = end + len(_END_OF_HEAD) + int(length)
    if len(received) < whole:
        return None
    return int(parts[1]), whole, headers.get(b"connection", b"").strip() != b"close"
