"""Checks that apply to the arguments of all apps."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchrec_priors.errors import UserError
from torchrec_priors.remote.uri import Uri, place_of, refuse_uri

_LARGEST = 2**63 - 1  # the largest number that files and columns can contain
# The new name of each renamed option, by the app and the old name.
_RENAMED = {("report", "--baseline"): "--reference"}


def check_texts(arguments: Sequence[str]) -> None:
    """Raises UserError if an argument is not UTF-8, which is the encoding of all written files."""
    for argument in arguments:
        try:
            argument.encode("utf8")
        except UnicodeEncodeError as error:
            escaped = argument.encode("utf8", "backslashreplace").decode("utf8")
            raise UserError(
                f"the argument '{escaped}' is not valid UTF-8: rename the file, or give another"
            ) from error


def check_renamed(app: str, arguments: Sequence[str]) -> None:
    """Raises UserError if an argument is a renamed option; the message gives the new name."""
    for argument in arguments:
        option = argument.partition("=")[0]
        if (app, option) in _RENAMED:
            raise UserError(f"{option} is now called {_RENAMED[app, option]}: use that name")


def check_values(options: Mapping[str, Any]) -> None:
    """Raises UserError if an option has a value that no option may have.

    Such values are a URI instead of a path, a number of more than 64 bits, and a number that is not
    finite.

    Args:
        options: the values of the options, by the names of the app's parameters. Options that may
            be URIs have values of type str; all other paths have type `Path`.
    """
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, Path):
            refuse_uri(value, option)
        # Libraries would reject larger integers later, with messages that do not name the option.
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise UserError(f"{option} = {value} is beyond 64 bits: give a smaller number")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{option} must be a finite number, not {value}")


def check_places(options: Mapping[str, Any]) -> None:
    """Raises UserError if `--run` names no trained run, or `--data` no prepared data set.

    The app finds this, too, but only after it has imported PyTorch. Places in stores are left to
    the app, because a store may take as long.

    Args:
        options: as for `check_values`. The type of `--run` is str if a trained run is read.
    """
    run = options.get("run")
    data = options.get("data")
    if isinstance(run, str):
        check_run(run, data)
    elif isinstance(data, str):
        _check_data(data)


def check_run(run: Path | str, data: str | None = None) -> None:
    """Raises UserError if there is no run with a best checkpoint, or not the data set it records.

    Args:
        run: the value of `--run`.
        data: the value of `--data`; None for the data set that the run recorded.
    """
    from torchrec_priors.training.run.folder import RunFolder  # --help needs no PyArrow

    place = place_of(run, "--run")
    if not isinstance(place, Uri):
        recorded = RunFolder(place).check_evaluated()
        _check_data(data or recorded)


def _check_data(data: Path | Uri | str) -> None:
    """Raises UserError if there is no prepared data set in a local folder."""
    from torchrec_priors.prepared.checked_files import CheckedFiles

    place = place_of(data)
    if not isinstance(place, Uri):
        CheckedFiles(place)
