"""Writes the output of the apps to terminals, pipes and files of any encoding."""

import io
import sys

from torchrec_priors.common.limits import shortened

_LONGEST_WORD = 400  # the largest number of characters of a word, such as a path


def open_streams() -> None:
    """Makes both standard streams write escapes for characters that their encoding lacks.

    Otherwise printing such a character would end the command with an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def one_line(message: str) -> str:
    """Returns a message as one line, without control characters and with very long words shortened.

    >>> one_line("no  user\\n'a\\x1b[31m'")
    "no user 'a\\\\x1b[31m'"
    """
    # Splitting at white space removes line breaks.
    words = (shortened(word, _LONGEST_WORD) for word in message.split())
    return "".join(_printable(character) for character in " ".join(words))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
