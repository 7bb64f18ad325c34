"""The exceptions that are one line to people: a mistake of theirs, what failed outside, what ended a run."""

import difflib
import signal
from collections.abc import Iterable

_LONGEST = 60  # characters of a value that a message shows
_MANY = 40  # names of a hint


class UserError(ValueError):
    """What the user gave is wrong. The message is one line: the thing, and the remedy. Apps exit with code 2."""


class OutsideError(Exception):
    """Something outside failed: neither the user's input nor this program. One line; apps exit with code 1."""


class LostRanksError(OutsideError):
    """Other ranks did not answer. The same on all ranks that still do, of which one `speaks`."""

    def __init__(self, message: str, *, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks


class DivergedError(ArithmeticError):
    """Training has left what numbers can say, and would again. One line; apps exit with code 1."""


class StoppedError(Exception):
    """Ended by a signal, all that was done saved. One line; apps exit with 128 + the signal's number, as shells do."""

    def __init__(self, message: str, by: signal.Signals) -> None:
        super().__init__(message)
        self.by = by


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name: "did you mean 'x'?", which is never the name itself, or the list of valid names.
    Of many dotted names, those of its section alone, or the sections.

    >>> nearest("movilens", ["movielens", "amazon"])
    "did you mean 'movielens'?"
    >>> nearest("x.y", [f"{section}.{number}" for section in "abc" for number in range(20)])
    'valid: a.*, b.*, c.*'
    """
    names = sorted(set(valid) - {name})  # what was given is no help
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return (
        f"did you mean '{close[0]}'?"
        if close
        else f"valid: {', '.join(_listed(name, names)) or 'none'}"
    )


def _listed(name: str, names: list[str]) -> list[str]:
    if len(names) <= _MANY:
        return names

    section = name.partition(".")[0]
    inside = [one for one in names if one.startswith(f"{section}.")]
    if inside:
        return inside

    dotted = {one.partition(".")[0] for one in names if "." in one}
    sections = sorted(
        {f"{section}.*" for section in dotted} | {one for one in names if "." not in one} - dotted
    )
    return (
        sections
        if len(sections) <= _MANY
        else [*sections[:_MANY], f"and {len(sections) - _MANY} more"]
    )


def shown(value: object) -> str:
    """A value of a file as a message shows it: quoted, on one line, and short.

    >>> shown("two\\nlines")
    "'two\\\\nlines'"
    """
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")
