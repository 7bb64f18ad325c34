"""Writes the reference of all configuration keys, from the dataclasses and their docstrings."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, Literal, get_args, get_origin

from torchrec_priors.settings.ranges import Range, is_section, types_of

_INTRODUCTION = """\
# Configuration keys

Written by `make docs-keys` from the types and docstrings in `torchrec_priors/settings/`: change
the source, not this file. [Configuration](configuration.md) explains how to use the sections.

Numbers are finite. `[0, 1)` includes 0 and excludes 1. A number without an upper limit may be at
most 10^12, because a larger one is probably a typo. In TOML, text is quoted.
"""
_HEAD = """\
| key | value | default | meaning |
|---|---|---|---|
"""


def key_reference(configuration: type[Any]) -> str:
    """Returns a Markdown document with a table for each section of a configuration.

    Args:
        configuration: a dataclass. Its fields are keys, or sections, which are dataclasses, too.
    """
    # Keys without a section come first, as in TOML.
    rows = []
    sections = []
    meanings = attributes(configuration)
    for name, kind in types_of(configuration):
        if is_section(kind):
            sections.append(f"## `{name}`\n\n{introduction(kind)}\n\n{_HEAD}{_table(kind, name)}")
        else:
            rows.append(_row(_field(configuration, name), kind, name, meanings[name]))

    return "\n".join([_INTRODUCTION, _HEAD + "".join(rows), *sections])


def attributes(section: type[Any]) -> dict[str, str]:
    """Returns the descriptions of the fields in the docstring of a dataclass, by name."""
    _, _, text = (inspect.getdoc(section) or "").partition("Attributes:\n")

    # An entry has the form `name: text`, and its continuation lines are indented further.
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def introduction(section: type[Any]) -> str:
    """Returns the part of a dataclass's docstring before the descriptions of the fields."""
    return (inspect.getdoc(section) or "").partition("Attributes:\n")[0].strip()


def value_in_words(kind: Any) -> str:
    """Returns the type and range of a field as the table shows them.

    >>> value_in_words(Literal["dot", "cosine"]), value_in_words(list[str])
    ('`dot`, `cosine`', 'list of texts')
    """
    origin = get_origin(kind)
    if origin is Annotated:
        return f"{value_in_words(get_args(kind)[0])} {Range.of(kind)}"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if origin is list:
        return f"list of {value_in_words(get_args(kind)[0])}s"
    if origin is dict:
        return "section"
    return {bool: "true or false", int: "whole number", float: "number", str: "text"}[kind]


def _table(section: type[Any], prefix: str) -> str:
    return "".join(_rows(section, prefix))


def _rows(section: type[Any], prefix: str) -> Iterator[str]:
    meanings = attributes(section)
    for name, kind in types_of(section):
        key = f"{prefix}.{name}"
        # The keys of a section in a section, such as `encoder.llm`, follow one another.
        if is_section(kind):
            yield from _rows(kind, key)
            continue
        yield _row(_field(section, name), kind, key, meanings[name])

        # The keys of a dictionary of sections, such as `sharding.tables`, get rows of their own.
        if get_origin(kind) is dict and is_section(get_args(kind)[1]):
            yield from _rows(get_args(kind)[1], f"{key}.NAME")


def _row(field: "Field[Any]", kind: Any, key: str, meaning: str) -> str:
    cells = (f"`{key}`", value_in_words(kind), _default(field), meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _field(section: type[Any], name: str) -> "Field[Any]":
    return next(field for field in fields(section) if field.name == name)


def _default(field: "Field[Any]") -> str:
    """Returns the default as it is written in TOML."""
    if field.default is MISSING:
        assert field.default_factory is not MISSING
        return f"`{field.default_factory()}`"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, str):
        return f'`"{field.default}"`'
    return f"`{field.default}`"
