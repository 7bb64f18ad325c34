"""What no option of any app takes, refused where arguments come in."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchrec_priors.errors import UserError
from torchrec_priors.remote.uri import refuse_uri

_MOST = 2**63 - 1  # what files and columns hold
_RENAMED = {("report", "--baseline"): "--reference"}  # app and its old option -> the new option


def check_texts(arguments: Sequence[str]) -> None:
    """Raises UserError where an argument is no UTF-8, in which everything is kept."""
    for argument in arguments:
        try:
            argument.encode("utf8")
        except UnicodeEncodeError as error:
            shown = argument.encode("utf8", "backslashreplace").decode("utf8")
            raise UserError(
                f"the argument '{shown}' is not valid UTF-8: rename the file, or give another"
            ) from error


def check_renamed(app: str, arguments: Sequence[str]) -> None:
    """Raises UserError that names the new option if an argument is an option that was renamed."""
    for argument in arguments:
        option = argument.partition("=")[0]
        if (app, option) in _RENAMED:
            raise UserError(f"{option} is now called {_RENAMED[app, option]}: use that name")


def check_values(options: Mapping[str, Any]) -> None:
    """Raises UserError where an option has a URI in place of a path, or a number that is none or of more than 64 bits.

    Args:
        options: by name of the app's parameter. Those that take URIs, too, come as texts.
    """
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, Path):
            refuse_uri(value, option)
        if isinstance(value, int) and abs(value) > _MOST:
            raise UserError(f"{option} = {value} is beyond 64 bits: give a smaller number")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{option} must be a finite number, not {value}")
