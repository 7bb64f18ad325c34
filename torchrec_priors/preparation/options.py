"""Options of a corpus: the choices that its file offers, given as `--option key=value`.

A corpus file declares them as a dataclass `Options` in which every field has a type and a
default, and takes one as the last argument of `load`:

    @dataclass(frozen=True)
    class Options:
        min_history: int = 50
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
    """Whether a corpus file declares `Options`.

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
    """The corpus's `Options` with the given values; None for a corpus without options.

    Raises:
        UserError: an unknown key (with the nearest valid one), a key that is given twice, a value
            of the wrong type, a file that does not exist.
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
        # An option whose value is empty has its equals sign, too.
        if not equals:
            raise UserError(f"--option: '{option}' is not an option: write key=value")
        if key not in fields:
            raise UserError(f"--option: this corpus has no option '{key}': {nearest(key, fields)}")
        if key in values:
            raise UserError(f"--option: '{key}' is given twice")
        values[key] = _typed(key, text, hints[key])

    # Options that are not given have the defaults of the dataclass.
    if declared is None:
        return None
    return declared(**values)


def recorded_options(options: Any) -> dict[str, Any]:
    """All options as the manifest keeps them; a file by its name and content."""
    if options is None:
        return {}
    return {name: _recorded(value) for name, value in vars(options).items()}


def _typed(key: str, text: str, kind: Any) -> Any:
    """The value of an option, converted from the text of the command line."""
    # By pydantic, so all types that it knows work: numbers, booleans, literals, dates, paths.
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
