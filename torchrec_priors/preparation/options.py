"""Reads the options of a corpus, which users give as `--option key=value`.

A corpus file declares its options as a dataclass `Options`, in which every field has a type and a
default, for example:

    @dataclass(frozen=True)
    class Options:
        min_history: int = 50

An instance of this class is then passed as the last argument of `load`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError, nearest

CLASS = "Options"


def declares_options(corpus_file: object) -> bool:
    """Returns whether a corpus file declares `Options`.

    Raises:
        UserError: `Options` is not a dataclass.
    """
    declared = getattr(corpus_file, CLASS, None)
    if declared is not None and not dataclasses.is_dataclass(declared):
        raise UserError(
            f"--dataset: `{CLASS}` of the corpus file must be a dataclass,"
            " whose fields have defaults"
        )
    return declared is not None


def read_options(corpus_file: object, given: Sequence[str]) -> Any:
    """Returns the `Options` of a corpus with the given values, or None if it declares no options.

    Args:
        corpus_file: the loaded corpus file.
        given: the options that the user gave, each as `key=value`.

    Raises:
        UserError: a key is unknown (the message suggests the nearest valid one) or given twice, a
            value has the wrong type, or a file does not exist.
    """
    declared = getattr(corpus_file, CLASS, None)
    fields: list[str] = []
    hints: dict[str, Any] = {}
    if declared is not None:
        fields = [field.name for field in dataclasses.fields(declared)]
        hints = get_type_hints(declared)

    values: dict[str, Any] = {}
    for option in given:
        key, equals, text = option.partition("=")
        # `key=` is valid and means an empty value. Only the equals sign is required.
        if not equals:
            raise UserError(f"--option: '{option}' is not an option: write key=value")
        if key not in fields:
            raise UserError(f"--option: this corpus has no option '{key}': {nearest(key, fields)}")
        if key in values:
            raise UserError(f"--option: '{key}' is given twice")
        values[key] = _typed(key, text, hints[key])

    # The dataclass fills in the defaults of options that are not given.
    if declared is None:
        return None
    return declared(**values)


def recorded_options(options: Any) -> dict[str, Any]:
    """Returns all options as the manifest records them: a file as its name and checksum."""
    if options is None:
        return {}
    return {name: _recorded(value) for name, value in vars(options).items()}


def _typed(key: str, text: str, kind: Any) -> Any:
    """Returns the value of an option, converted from the text of the command line."""
    # Pydantic converts numbers, booleans, literals, dates, paths and many other types.
    try:
        value: Any = TypeAdapter(kind).validate_strings(text)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise UserError(f"--option: {key} = '{text}': {problem[0].lower()}{problem[1:]}") from error

    if isinstance(value, Path) and not value.is_file():
        raise UserError(f"--option: {key} = '{text}': the file does not exist")
    return value


def _recorded(value: Any) -> Any:
    if isinstance(value, Path):
        return {"file": value.name, "sha256": sha256(value)}
    return value
