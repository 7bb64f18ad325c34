"""Lines of JSON on stderr: one for each request, and one for each message of the program.

A thread writes them, so that a slow reader of stderr does not stop the service. If it reads too
slowly, lines are dropped and counted.
"""

import json
import logging
import sys
import time
from collections import deque
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from threading import Event, Thread
from typing import TextIO

_MOST_LINES = 10_000  # that wait to be written
_GATHER_S = 0.02  # lines of this time are written together


class Lines:
    """Writes lines to a stream, in the background.

    Attributes:
        dropped: the number of lines that were dropped.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        """
        Args:
            stream: where lines are written; None for stderr.
        """
        self.dropped = 0
        self._stream = stream
        self._lines: deque[str] = deque()
        self._any = Event()
        self._ends = False
        self._thread: Thread | None = None

    def write(self, line: str) -> None:
        """Writes a line. Any thread may call it."""
        if len(self._lines) >= _MOST_LINES:
            self.dropped += 1
            return
        self._lines.append(line)
        if not self._any.is_set():
            self._wake()

    def close(self) -> None:
        """Writes all lines that wait."""
        self._ends = True
        if self._thread is not None:
            self._any.set()
            self._thread.join(5.0)
        self._write_all()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._work, name="torchrec-priors-log", daemon=True)
            self._thread.start()
        self._any.set()

    def _work(self) -> None:
        while not self._ends:
            self._any.wait()
            time.sleep(_GATHER_S)
            # It is cleared first: a line that comes after this wakes the thread again.
            self._any.clear()
            self._write_all()

    def _write_all(self) -> None:
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        if not lines:
            return
        stream = self._stream or sys.stderr
        try:
            stream.write("\n".join(lines) + "\n")
            stream.flush()
        except (OSError, ValueError):
            # There is nowhere to say it, except in the metrics.
            self.dropped += len(lines)


class RequestLog:
    """Writes a line for each request.

    Ids of users are in paths of requests, so a line has the route instead of the path.
    """

    def __init__(self, lines: Lines | None = None, *, name: str = "torchrec-priors") -> None:
        """
        Args:
            lines: where lines are written; None for stderr.
            name: the name of the service.
        """
        self.lines = lines or Lines()
        self._name = json.dumps(name)

    def request(
        self,
        *,
        request_id: str,
        method: str,
        route: str,
        status: int,
        seconds: float,
        received: int,
        sent: int,
        code: str | None = None,
        trace: str | None = None,
    ) -> None:
        """Writes the line of a request.

        Args:
            request_id: the id of the request.
            method: its method.
            route: its route, such as "/v1/users/{user}".
            status: the status of the response; 499 if the client went away before.
            seconds: the time from its first line to the response.
            received: the bytes of its body.
            sent: the bytes of the body of the response.
            code: the code of the error, if there was one.
            trace: the trace of an unexpected error.
        """
        about = _about(self._name, method, route, status)
        line = (
            f'{{"time":"{_now()}",{about},"request_id":{quoted(request_id)},'
            f'"ms":{seconds * 1e3:.2f},"received":{received},"sent":{sent}'
        )
        if code is not None:
            line += f',"code":{quoted(code)}'
        if trace is not None:
            line += f',"trace":{quoted(trace)}'
        self.lines.write(line + "}")


class JsonHandler(logging.Handler):
    """Writes the messages of Python's loggers as lines of JSON."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a message."""
        entry = {
            "time": _now(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = logging.Formatter().formatException(record.exc_info)
        self._lines.write(json.dumps(entry))


def _now(seconds: float | None = None) -> str:
    """Returns a time in UTC, as ISO 8601 with milliseconds."""
    seconds = time.time() if seconds is None else seconds
    whole = int(seconds)
    return f"{_date(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=256)
def _about(name: str, method: str, route: str, status: int) -> str:
    """Returns the part of a line that many requests share. `name` is quoted already."""
    level = "error" if status == 500 else "info"
    return (
        f'"level":"{level}","service":{name},"message":"request",'
        f'"method":{quoted(method)},"route":{quoted(route)},"status":{status}'
    )


@lru_cache(maxsize=2)
def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
