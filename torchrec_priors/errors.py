"""The exceptions that are one line to people: a mistake of theirs, or what failed outside."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What the user gave is wrong. The message is one line: the thing, and the remedy. Apps exit with code 2."""


class OutsideError(Exception):
    """Something outside failed: neither the user's input nor this program. One line; apps exit with code 1."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name: "; did you mean 'x'?" or the list of valid names.

    >>> nearest("movilens", ["movielens", "amazon"])
    "did you mean 'movielens'?"
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(names) or 'none'}"
