"""Reads TOML that users write, or rejects it with a reason that fits into one line."""

import tomllib
from typing import Any

# Levels; no file of ours has more than four.
_DEEPEST = 20
_TOO_DEEP = f"it is nested more than {_DEEPEST} levels deep"


class TomlError(ValueError):
    """TOML that is invalid here; the message says why."""


class NoTomlError(TomlError):
    """Text that is not TOML."""


def parse_toml(text: str) -> dict[str, Any]:
    """The values of a TOML text.

    Raises:
        NoTomlError: it is not TOML.
        TomlError: it is nested deeper than anything here can be, or has a number of thousands of
            digits.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NoTomlError(str(error)) from error
    except RecursionError as error:
        raise TomlError(_TOO_DEEP) from error
    except (ValueError, OverflowError) as error:
        # Python reads no integer of more than 4,300 digits.
        raise TomlError("a number has too many digits, or a date does not exist") from error

    check_depth(values)
    return values


def check_depth(values: Any) -> None:
    """Raises TomlError if values are nested too deep for recursive functions."""
    # Level by level, since recursion is what deep values would break.
    level = [values]
    for _ in range(_DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise TomlError(_TOO_DEEP)


def _inside(value: Any) -> list[Any]:
    """The values directly inside a table or an array."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list):
        return value
    return []
