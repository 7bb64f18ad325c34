"""Reads the options of a corpus, which users give as `--option key=value`.

A corpus file declares its options as a dataclass `Options`, in which every field has a type and a
default, for example:

    @dataclass(frozen=True)
    class Options:
        min_history: int = 50

An instance of this class is then passed as the last argument of `load`.

A corpus file that generates logs may declare options of the generated log in a second dataclass,
`Generation`, of which `generate` gets an instance. They are valid with `--generate` only, and no
name is in both classes.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError, nearest

CLASS = "Options"
GENERATION = "Generation"


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
        UserError: a key is unknown (the message suggests the nearest valid one), given twice or of
            the generated log, a value has the wrong type, or a file does not exist.
    """
    of_logs = _names(corpus_file, GENERATION)
    for key in (option.partition("=")[0] for option in given):
        if key in of_logs:
            raise UserError(
                f"--option: '{key}' is an option of a generated log: "
                "give it together with --generate, or leave it out"
            )
    return _read(corpus_file, CLASS, given)


def read_generation(corpus_file: object, given: Sequence[str]) -> Any:
    """Returns the `Generation` of a corpus with the given values, or None if it declares none.

    Args:
        corpus_file: the loaded corpus file.
        given: the options of the generated log, each as `key=value`.

    Raises:
        UserError: as for `read_options`, or the options do not fit together.
    """
    return _read(corpus_file, GENERATION, given)


def divide_options(
    corpus_file: object, given: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divides options into those of the corpus and those of the generated log.

    Unknown keys are among the former, for which `read_options` raises UserError.
    """
    of_logs = _names(corpus_file, GENERATION)
    is_of_log = [option.partition("=")[0] in of_logs for option in given]
    of_corpus = [option for option, of_log in zip(given, is_of_log, strict=True) if not of_log]
    of_log = [option for option, of_log in zip(given, is_of_log, strict=True) if of_log]
    return tuple(of_corpus), tuple(of_log)


def _names(corpus_file: object, name: str) -> list[str]:
    """Returns the names of the options that a class of the corpus file declares, if it has one."""
    declared = getattr(corpus_file, name, None)
    return [] if declared is None else [field.name for field in dataclasses.fields(declared)]


def _read(corpus_file: object, name: str, given: Sequence[str]) -> Any:
    """Returns an instance of a class of the corpus file, or None if it has no such class."""
    declared = getattr(corpus_file, name, None)
    fields = _names(corpus_file, name)
    hints: dict[str, Any] = {} if declared is None else get_type_hints(declared)

    values: dict[str, Any] = {}
    for option in given:
        key, equals, text = option.partition("=")
        # `key=` is valid and means an empty value. Only the equals sign is required.
        if not equals:
            raise UserError(f"--option: '{option}' is not an option: write key=value")
        if key not in fields:
            known = [*_names(corpus_file, CLASS), *_names(corpus_file, GENERATION)]
            raise UserError(f"--option: this corpus has no option '{key}': {nearest(key, known)}")
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
