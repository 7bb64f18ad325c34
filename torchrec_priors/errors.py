"""The exceptions that users see as one line: their mistakes, outside failures, ends of runs.

    exception         what has happened                            exit code
    UserError         the user gave something wrong                2
    OutsideError      a disk, a network or another process failed  1
    LostRanksError    other ranks did not answer                   1
    DivergedError     training has left the range of numbers       1
    StoppedError      a signal ended the run                       128 + the signal's number

`apps/command.py` turns them into lines and exit codes. It keeps a launcher from starting the ranks
again after a UserError or a DivergedError, which would happen again.
"""

import difflib
import signal
from collections.abc import Iterable

# Characters of a value that a message shows.
_LONGEST = 60
# Names that a hint lists.
_MANY = 40


class UserError(ValueError):
    """The user gave something wrong.

    The message is one line that names the thing and the remedy. Apps exit with code 2.
    """


class OutsideError(Exception):
    """Something outside failed: neither the user's input nor this program.

    The message is one line. Apps exit with code 1.
    """


class LostRanksError(OutsideError):
    """Other ranks did not answer. It is the same on all ranks that still do.

    Attributes:
        speaks: whether this rank is the one that prints the message.
    """

    def __init__(self, message: str, *, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks


class DivergedError(ArithmeticError):
    """Training has left the range of numbers, and would again.

    The message is one line. Apps exit with code 1.
    """


class StoppedError(Exception):
    """A signal ended the run, and everything that was done is saved.

    The message is one line. Apps exit with 128 + the signal's number, as shells do.
    """

    def __init__(self, message: str, by: signal.Signals) -> None:
        super().__init__(message)
        self.by = by


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name: "did you mean 'x'?", or the list of valid names.

    The suggestion is never the name itself. If there are many dotted names, the list has only those
    of the name's section, or the sections.

    >>> nearest("movilens", ["movielens", "amazon"])
    "did you mean 'movielens'?"
    >>> nearest("x.y", [f"{section}.{number}" for section in "abc" for number in range(20)])
    'valid: a.*, b.*, c.*'
    """
    # A valid name may be unknown in another place: suggesting it would not help.
    names = sorted(set(valid) - {name})
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"valid: {', '.join(_listed(name, names)) or 'none'}"


def shown(value: object) -> str:
    """A value of a file as a message shows it: quoted, on one line, and short.

    >>> shown("two\\nlines")
    "'two\\\\nlines'"
    """
    text = value if isinstance(value, str) else str(value)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 3] + "..."
    return repr(text)


def _listed(name: str, names: list[str]) -> list[str]:
    """The names that a hint lists: all, those of the name's section, or the sections."""
    if len(names) <= _MANY:
        return names

    section = name.partition(".")[0]
    in_section = [valid for valid in names if valid.startswith(f"{section}.")]
    if in_section:
        return in_section

    # A name without a dot that is also a section is listed as the section.
    dotted = {valid.partition(".")[0] for valid in names if "." in valid}
    undotted = {valid for valid in names if "." not in valid}
    sections = sorted({f"{section}.*" for section in dotted} | (undotted - dotted))
    if len(sections) <= _MANY:
        return sections
    return [*sections[:_MANY], f"and {len(sections) - _MANY} more"]
