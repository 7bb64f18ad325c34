"""Reads and checks the configuration of a run: a TOML file and `key=value` overrides.

The value of a key comes from the first of these sources that contains the key:

    an override      `training.steps=500`; the last one, if there are several for a key
    the TOML file    `steps = 500` in the section `[training]`
    `model.size`     for the keys that `settings/sizes.py` lists
    the default      in the dataclass of the section, such as `settings/training.py`

Unknown keys, wrong types and values out of their range are errors with a message of one line.
"""

import copy
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from torchrec_priors.common.files import check_file
from torchrec_priors.common.limits import shortened
from torchrec_priors.common.own_code import check_given
from torchrec_priors.common.plugin import absolute
from torchrec_priors.common.toml_text import NoTomlError, TomlError, parse_toml
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.remote.uri import refuse_uri
from torchrec_priors.settings.former_keys import present_key, with_present_keys
from torchrec_priors.settings.items import KEY as ITEM_LLM
from torchrec_priors.settings.mistakes import explain, first_mistake
from torchrec_priors.settings.ranges import (
    adapter,
    explain_range,
    is_of_range,
    is_section,
    types_of,
)
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.settings.shipped import find_config
from torchrec_priors.settings.sizes import with_size

_DEEPEST_KEY = 8  # the largest number of sections in a dotted key; settings have at most four

# Every field except the seed is a section; its default factory is the class of the section.
_SECTIONS: dict[str, Any] = {
    item.name: item.default_factory for item in dataclasses.fields(RunConfig) if item.name != "seed"
}


def load_config(
    file: Path | str | None, overrides: Iterable[str] = (), *, trust: bool = False
) -> RunConfig:
    """Reads the configuration in a TOML file and applies overrides to it.

    Args:
        file: the TOML file, or the name of a configuration that comes with the project, such as
            "small"; None for the defaults.
        overrides: texts such as `model.dim=64` or `priors.tree=["genre"]`.
        trust: whether custom files may run even if the TOML file came with somebody else's run.

    Raises:
        UserError: the file does not exist or is not TOML, a key is unknown, a value has the wrong
            type or is out of its range, or a custom file is not trusted.
    """
    if file is None:
        return with_changes({}, map(read_override, overrides))
    file = find_config(file, "--config")
    values = read_toml(file, "--config")
    config = with_changes(values, map(read_override, overrides))

    # Only custom files that the TOML file names must be trusted. The user has typed those that
    # overrides name.
    in_file: list[Path] = []
    if config.own_files():
        in_file = with_changes(values, ()).own_files()
    check_given(file, [path for path in in_file if path in config.own_files()], trust=trust)
    return config


def read_toml(path: Path, option: str) -> dict[str, Any]:
    """Reads the values of a TOML file.

    Args:
        path: the file.
        option: the option that named the file, for messages.
    """
    check_file(path, option)
    try:
        return parse_toml(path.read_text(encoding="utf8"))
    except OSError as error:
        raise UserError(f"{option}: '{path}' cannot be read: {error.strerror}") from error
    except (TomlError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {path} is not valid TOML: {error}") from error


def with_changes(values: Mapping[str, Any], changes: Iterable[tuple[str, Any]]) -> RunConfig:
    """Creates a configuration from nested values, with some of them changed.

    Args:
        values: nested dictionaries, as TOML gives them.
        changes: pairs of a dotted key and its value. If a key occurs several times, the last value
            counts.

    Returns:
        The configuration, in which all files have absolute paths.
    """
    changed = with_present_keys(copy.deepcopy(dict(values)))
    for key, value in changes:
        _put(changed, present_key(key), value)
        # The value may be a whole section, which may have keys with former names.
        changed = with_present_keys(changed)
    config = parse(changed)

    # Paths become absolute, because a run may be resumed or read from another working folder.
    config.priors.tree = [absolute(level) for level in config.priors.tree]
    config.encoder.backbone = absolute(config.encoder.backbone)
    config.baseline.name = absolute(config.baseline.name)
    if config.encoder.llm.folder:
        refuse_uri(Path(config.encoder.llm.folder), "encoder.llm.folder")
        config.encoder.llm = config.encoder.llm.resolved()
    if config.items.llm.folder:
        refuse_uri(Path(config.items.llm.folder), f"{ITEM_LLM}.folder")
        config.items.llm = config.items.llm.resolved(ITEM_LLM)
    if config.table.pretrained:
        refuse_uri(Path(config.table.pretrained), "table.pretrained")
        config.table.pretrained = str(Path(config.table.pretrained).absolute())
    if config.sharding.plan:
        config.sharding.plan = str(Path(config.sharding.plan).absolute())
    return config


def parse(values: dict[str, Any]) -> RunConfig:
    """Creates a configuration from nested dictionaries, as TOML gives them, and checks it."""
    present = with_size(with_present_keys(values))
    try:
        # Pydantic gets JSON, because in strict mode it does not convert Python dictionaries to
        # dataclasses. Dates, which JSON does not have, become texts.
        config: RunConfig = adapter(RunConfig).validate_json(json.dumps(present, default=str))
    except ValidationError as error:
        raise UserError(_explain(error)) from error

    config.check()
    return config


def keys() -> list[str]:
    """Returns all valid keys, such as "model.dim"."""
    names = ["seed"]
    for name, section in _SECTIONS.items():
        names += _keys_of(section, name)
    return names


def _keys_of(section: type[Any], prefix: str) -> list[str]:
    """Returns the dotted keys of a section, and of the sections in it."""
    names = []
    for name, kind in types_of(section):
        key = f"{prefix}.{name}"
        names += _keys_of(kind, key) if is_section(kind) else [key]
    return names


def read_override(override: str) -> tuple[str, Any]:
    """Returns the key and the value of `key=value`.

    The value is read as TOML. A text that is not TOML is the value itself, so quotes can be left
    out.
    """
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(
            f"'{shortened(override)}' is not an override: write key=value, as in model.dim=64"
        )

    try:
        parsed = parse_toml(f"value = {text}")
    except NoTomlError:
        return key.strip(), text  # a word without quotes
    except TomlError as error:
        raise UserError(f"'{shortened(override)}': {error}") from error

    # If the text contains line breaks, it may define more than one key.
    if list(parsed) != ["value"]:
        raise UserError(
            f"'{shortened(' '.join(override.split()))}' is not an override: give one key=value per "
            "argument"
        )
    return key.strip(), parsed["value"]


def write_override(key: str, value: Any) -> str:
    """Returns a key and its value as `key=value`, which `read_override` can read.

    >>> write_override("priors.tree", ["temporal:4", "genre"])
    'priors.tree=["temporal:4", "genre"]'
    """
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _explain(error: ValidationError) -> str:
    """Returns one line about the first mistake in a configuration."""
    key, problem = first_mistake(error)
    if is_of_range(problem):
        return explain_range(RunConfig, problem)

    # A key without a dot may be a misspelt section, so sections are suggested, too.
    valid = keys()
    if "." not in key:
        valid = ["seed", *_SECTIONS, *valid]
    return explain(error, "configuration key", valid)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets the value of a dotted key in nested dictionaries."""
    *sections, last = key.split(".")
    if len(sections) > _DEEPEST_KEY:
        raise UserError(
            f"unknown configuration key '{shortened(key)}': {nearest(key[:100], keys())}"
        )

    inner = values
    for section in sections:
        inner = inner.setdefault(section, {})
        if isinstance(inner, dict):
            continue
        if section in _SECTIONS and key in keys():
            raise UserError(
                f"configuration key '{section}' = {shortened(repr(inner))}: it must be a section, "
                f"[{section}]"
            )
        raise UserError(f"unknown configuration key '{key}': {nearest(key, keys())}")
    inner[last] = value
