"""Defines the exceptions that users see as one line, without a traceback.

    exception         what has happened                            exit code
    UserError         the user's input is wrong                    2
    OutsideError      a disk, a network or another process failed  1
    LostRanksError    other ranks did not answer                   1
    DivergedError     the loss is not finite, or far too large     1
    StoppedError      a signal ended the run                       128 + the signal's number

`apps/command.py` prints the messages and sets the exit codes. After a UserError or a DivergedError
it also keeps a launcher from starting the ranks again, because the same error would happen again.
"""

import difflib
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

# The number of characters of a value that a message shows.
_LONGEST = 60
# The number of names that a hint lists.
_MANY = 40
# The number of names from a file that a message lists.
_NAMES = 20


class UserError(ValueError):
    """The user's input is wrong: an option, a setting, a file or an environment variable.

    The message is one line that names the wrong input and the remedy. Apps exit with code 2.
    """


class OutsideError(Exception):
    """Something failed that is neither the user's input nor this program, such as a full disk.

    The message is one line. Apps exit with code 1.
    """


class LostRanksError(OutsideError):
    """Other ranks did not answer.

    All remaining ranks raise this error, with the same message.

    Attributes:
        speaks: whether this is the rank that prints the message.
    """

    def __init__(self, message: str, *, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks


class DivergedError(ArithmeticError):
    """Training has diverged: its loss is not finite, or far too large.

    If the same command ran again, it would diverge again. The message is one line. Apps exit with
    code 1.
    """


class StoppedError(Exception):
    """A signal ended the run, after a checkpoint was saved.

    The message is one line. Apps exit with 128 + the signal's number, as shells do.
    """

    def __init__(self, message: str, by: signal.Signals) -> None:
        super().__init__(message)
        self.by = by


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns a hint for an unknown name: "did you mean 'x'?", or the list of valid names.

    The suggestion is never the name itself. If there are many names with dots, only those of the
    name's section are listed, or only the sections.

    >>> nearest("movilens", ["movielens", "amazon"])
    "did you mean 'movielens'?"
    >>> nearest("x.y", [f"{section}.{number}" for section in "abc" for number in range(20)])
    'valid: a.*, b.*, c.*'
    """
    # If a valid name was used in the wrong place, it is among the valid names. It is removed,
    # because suggesting it would not help.
    names = sorted(set(valid) - {name})
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"valid: {', '.join(_listed(name, names)) or 'none'}"


def no_such_folder(folder: Path) -> str:
    """Returns "there is no folder 'x'", with the most similar folder beside it, if there is one."""
    if folder.exists():
        return f"'{folder}' is not a folder"
    try:
        beside = [path.name for path in folder.absolute().parent.iterdir() if path.is_dir()]
    except OSError:
        beside = []
    close = difflib.get_close_matches(folder.name, beside, n=1, cutoff=0.7)
    hint = f": did you mean '{folder.with_name(close[0])}'?" if close else ""
    return f"there is no folder '{folder}'{hint}"


def shown(value: object) -> str:
    """Returns a value from a file in the form that messages show: quoted, on one line, and short.

    >>> shown("two\\nlines")
    "'two\\\\nlines'"
    """
    text = value if isinstance(value, str) else str(value)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 3] + "..."
    return repr(text)


def shown_names(names: Sequence[str]) -> str:
    """Returns names from a file in the form that messages show: the first ones of many.

    >>> shown_names(["a", "b"])
    "'a', 'b'"
    """
    listed = ", ".join(shown(name) for name in names[:_NAMES])
    return listed if len(names) <= _NAMES else f"{listed} and {len(names) - _NAMES:,} more"


def _listed(name: str, names: list[str]) -> list[str]:
    """Returns the names that a hint lists: all, those of the name's section, or the sections."""
    if len(names) <= _MANY:
        return names

    section = name.partition(".")[0]
    in_section = [valid for valid in names if valid.startswith(f"{section}.")]
    if in_section:
        return in_section

    # If a name without a dot is also the name of a section, only the section is listed.
    dotted = {valid.partition(".")[0] for valid in names if "." in valid}
    undotted = {valid for valid in names if "." not in valid}
    sections = sorted({f"{section}.*" for section in dotted} | (undotted - dotted))
    if len(sections) <= _MANY:
        return sections
    return [*sections[:_MANY], f"and {len(sections) - _MANY} more"]
