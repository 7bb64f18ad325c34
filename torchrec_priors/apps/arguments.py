"""Checks of arguments that hold for every option of every app."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchrec_priors.errors import UserError
from torchrec_priors.remote.uri import refuse_uri

_LARGEST = 2**63 - 1  # what files and columns can hold
_RENAMED = {("report", "--baseline"): "--reference"}  # app and its old option -> the new option


def check_texts(arguments: Sequence[str]) -> None:
    """Raises UserError if an argument is not UTF-8, the encoding of every file we write."""
    for argument in arguments:
        try:
            argument.encode("utf8")
        except UnicodeEncodeError as error:
            escaped = argument.encode("utf8", "backslashreplace").decode("utf8")
            raise UserError(
                f"the argument '{escaped}' is not valid UTF-8: rename the file, or give another"
            ) from error


def check_renamed(app: str, arguments: Sequence[str]) -> None:
    """Raises UserError that names the new option if an argument is an option that was renamed."""
    for argument in arguments:
        option = argument.partition("=")[0]
        if (app, option) in _RENAMED:
            raise UserError(f"{option} is now called {_RENAMED[app, option]}: use that name")


def check_values(options: Mapping[str, Any]) -> None:
    """Raises UserError if an option has an invalid value.

    Invalid are a URI instead of a path, a number of more than 64 bits, and one that is not finite.

    Args:
        options: values by the name of the app's parameter. Options that also take URIs are texts.
    """
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, Path):
            refuse_uri(value, option)
        # Larger integers fail late, deep in libraries, with messages that name no option.
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise UserError(f"{option} = {value} is beyond 64 bits: give a smaller number")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{option} must be a finite number, not {value}")
