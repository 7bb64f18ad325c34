"""What apps write to: terminals, pipes and files of any encoding."""

import io
import sys

from torchrec_priors.common.limits import shortened

_LONGEST_WORD = 400  # a path may be longer than a screen is wide, but not than this


def open_streams() -> None:
    """Lets characters that an encoding does not have be written as escapes: no output may end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def one_line(message: str) -> str:
    """A message as one line that every terminal shows: no line breaks, no control characters, no endless words.

    >>> one_line("no  user\\n'a\\x1b[31m'")
    "no user 'a\\\\x1b[31m'"
    """
    words = (shortened(word, _LONGEST_WORD) for word in message.split())
    return "".join(mark if mark.isprintable() else _escaped(mark) for mark in " ".join(words))


def _escaped(mark: str) -> str:
    return mark.encode("unicode_escape", "surrogatepass").decode("ascii")
