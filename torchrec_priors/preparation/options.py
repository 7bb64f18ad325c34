"""Options of a corpus: what its file lets people choose, given as `--option key=value`.

A corpus file declares them as a dataclass `Options` in which every field has a type and a default, and takes one as
the last argument of `load`:

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
    """Raises UserError where a corpus file's `Options` is no dataclass."""
    declared = getattr(corpus_file, CLASS, None)
    if declared is not None and not dataclasses.is_dataclass(declared):
        raise UserError(
            f"--dataset: `{CLASS}` of the corpus file must be a dataclass, whose fields have defaults"
        )
    return declared is not None


def read_options(corpus_file: object, given: Sequence[str]) -> Any:
    """The corpus's `Options` with what was given in its place; None for a corpus without options.

    Raises:
        UserError: an unknown key (with the nearest valid one), one that is given twice, a value of the wrong type, a
            file that is not there.
    """
    declared = getattr(corpus_file, CLASS, None)
    fields = [] if declared is None else [field.name for field in dataclasses.fields(declared)]
    hints = {} if declared is None else get_type_hints(declared)
    values: dict[str, Any] = {}
    for option in given:
        key, equals, text = option.partition("=")
        if not equals:
            raise UserError(f"--option: '{option}' is no option: write key=value")
        if key not in fields:
            raise UserError(f"--option: this corpus has no option '{key}': {nearest(key, fields)}")
        if key in values:
            raise UserError(f"--option: '{key}' is given twice")
        values[key] = _typed(key, text, hints[key])
    return None if declared is None else declared(**values)


def recorded_options(options: Any) -> dict[str, Any]:
    """All options as the manifest keeps them; a file by its name and content."""
    return (
        {} if options is None else {name: _recorded(value) for name, value in vars(options).items()}
    )


def _typed(key: str, text: str, kind: Any) -> Any:
    try:
        value: Any = TypeAdapter(kind).validate_strings(text)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise UserError(f"--option: {key} = '{text}': {problem[0].lower()}{problem[1:]}") from error
    if isinstance(value, Path) and not value.is_file():
        raise UserError(f"--option: {key} = '{text}': there is no such file")
    return value


def _recorded(value: Any) -> Any:
    return {"file": value.name, "sha256": sha256(value)} if isinstance(value, Path) else value
