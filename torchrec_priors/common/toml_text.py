"""TOML as people write it: read, or refused with a reason that fits into one line."""

import tomllib
from typing import Any

_DEEPEST = 20  # no file of ours has more than four
_TOO_DEEP = f"it is nested more than {_DEEPEST} deep"


class TomlError(ValueError):
    """TOML that means nothing here; the message says why."""


class NoTomlError(TomlError):
    """No TOML at all."""


def parse_toml(text: str) -> dict[str, Any]:
    """The values of a TOML text.

    Raises:
        NoTomlError: it is none.
        TomlError: it is nested deeper than anything here can be, or has a number of thousands of digits.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NoTomlError(str(error)) from error
    except RecursionError as error:
        raise TomlError(_TOO_DEEP) from error
    except (
        ValueError,
        OverflowError,
    ) as error:  # Python reads no integer of more than 4,300 digits
        raise TomlError("a number has too many digits, or a date cannot be") from error
    check_depth(values)
    return values


def check_depth(values: Any) -> None:
    """Raises TomlError where values are nested too deep to be walked through."""
    level = [values]
    for _ in range(_DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise TomlError(_TOO_DEEP)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
