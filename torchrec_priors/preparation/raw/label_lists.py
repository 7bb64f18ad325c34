"""Reads the JSON files of S3-Rec's text format, which map items to the ids of their labels."""

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torchrec_priors.errors import UserError


def read_label_lists(file: Path) -> dict[int, list[int]]:
    """Reads the ids of the labels of each item, sorted and without repeats.

    Raises:
        UserError: the file is not a JSON object of lists of integers, or an integer is beyond 64
            bits.
    """
    # If the file has another form, this block raises one of the errors that are handled below.
    try:
        values = json.loads(file.read_text(encoding="utf8"))
        labels = {
            int(item): sorted({_as_integer(label) for label in of_item})
            for item, of_item in values.items()
        }
        _require_64_bits(itertools.chain(labels, *labels.values()))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not item -> list of label ids in JSON: {str(error).splitlines()[0]}"
        ) from error
    return labels


def read_label_names(file: Path) -> dict[int, str]:
    """Reads the names of labels from a file that maps each name to the label's id.

    Returns:
        The name of each label, by its id.

    Raises:
        UserError: the file is not a JSON object of integers, or two names have the same id.
    """
    try:
        values: Mapping[str, Any] = json.loads(file.read_text(encoding="utf8"))
        ids = {name: _as_integer(label) for name, label in values.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not name -> label id in JSON: {str(error).splitlines()[0]}"
        ) from error

    names: dict[int, str] = {}
    for name, label in ids.items():
        if label in names:
            raise UserError(
                f"{file} gives label {label} two names, '{names[label]}' and '{name}': keep one"
            )
        names[label] = name
    return names


def _as_integer(label: object) -> int:
    """Returns a label as an integer.

    Fractions are an error, because `int` would silently cut them off.
    """
    if isinstance(label, float) and not label.is_integer():
        raise ValueError(f"{label} is not an integer")
    return int(label)  # type: ignore[call-overload]


def _require_64_bits(numbers: Iterable[int]) -> None:
    for number in numbers:
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"{number} is beyond 64 bits")
