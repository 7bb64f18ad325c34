"""Reads TOML that users write. If it is invalid, the reason fits into one line."""

import tomllib
from typing import Any

# The largest number of nested levels; this project's files have at most four.
_DEEPEST = 20
_TOO_DEEP = f"it is nested more than {_DEEPEST} levels deep"


class TomlError(ValueError):
    """The text is TOML, but it cannot be used here; the message says why."""


class NoTomlError(TomlError):
    """The text is not TOML."""


def parse_toml(text: str) -> dict[str, Any]:
    """Returns the values of a TOML text.

    Raises:
        NoTomlError: the text is not TOML.
        TomlError: the text is nested too deeply, or has a number with thousands of digits or a date
            that does not exist.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NoTomlError(str(error)) from error
    except RecursionError as error:
        raise TomlError(_TOO_DEEP) from error
    except (ValueError, OverflowError) as error:
        # Python raises an error for integers of more than 4,300 digits.
        raise TomlError("a number has too many digits, or a date does not exist") from error

    check_depth(values)
    return values


def check_depth(values: Any) -> None:
    """Raises TomlError if values are nested too deeply for recursive functions."""
    # This goes from level to level, because a recursive check would itself fail for such values.
    level = [values]
    for _ in range(_DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise TomlError(_TOO_DEEP)


def _inside(value: Any) -> list[Any]:
    """Returns the values directly inside a table or an array."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list):
        return value
    return []
