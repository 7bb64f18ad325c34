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
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from annotated_types import Ge, Lt
from pydantic import ValidationError

from torchrec_priors.common.files import check_file
from torchrec_priors.common.limits import shortened
from torchrec_priors.common.own_code import check_given
from torchrec_priors.common.plugin import absolute, own_file
from torchrec_priors.common.toml_text import NoTomlError, TomlError, parse_toml
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.remote.uri import refuse_uri
from torchrec_priors.settings.baseline import BaselineConfig
from torchrec_priors.settings.embedding import UnseenConfig
from torchrec_priors.settings.encoder import EncoderConfig
from torchrec_priors.settings.evaluation import RetrievalConfig
from torchrec_priors.settings.former_keys import present_key, with_former_keys, with_present_keys
from torchrec_priors.settings.items import KEY as ITEM_LLM
from torchrec_priors.settings.items import ItemsConfig
from torchrec_priors.settings.loss import LossConfig
from torchrec_priors.settings.model import ModelConfig
from torchrec_priors.settings.negatives import NegativesConfig
from torchrec_priors.settings.plain import PlainConfig
from torchrec_priors.settings.priors import PriorsConfig
from torchrec_priors.settings.ranges import (
    Section,
    adapter,
    check_ranges,
    explain_range,
    is_of_range,
    is_section,
    types_of,
)
from torchrec_priors.settings.repeats import RepeatsConfig
from torchrec_priors.settings.sharding import ShardingConfig
from torchrec_priors.settings.shipped import find_config
from torchrec_priors.settings.sizes import with_size
from torchrec_priors.settings.table import TABLE, TableConfig, table_of_feature
from torchrec_priors.settings.training import TrainingConfig


@dataclass
class RunConfig(Section):
    """All settings that decide a run's result, together with the data set.

    Each field except the seed is a section of the TOML file; its dataclass describes the keys.

    Attributes:
        seed: seed of initial values, shuffling, dropout and negatives. The same seed gives the same
            result.
    """

    seed: Annotated[int, Ge(0), Lt(1 << 31)] = 0

    # The model
    model: ModelConfig = field(default_factory=ModelConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    priors: PriorsConfig = field(default_factory=PriorsConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    plain: PlainConfig = field(default_factory=PlainConfig)

    # What it learns from a batch
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    repeats: RepeatsConfig = field(default_factory=RepeatsConfig)

    # The tables of items and side features
    table: TableConfig = field(default_factory=TableConfig)
    embedding: UnseenConfig = field(default_factory=UnseenConfig)
    items: ItemsConfig = field(default_factory=ItemsConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)

    # Training and evaluation
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: RetrievalConfig = field(default_factory=RetrievalConfig)

    def check(self) -> None:
        """Raises UserError if a value is out of its range, or if two contradict each other."""
        # Ranges are checked first, because the other checks rely on values in their ranges.
        check_ranges(self)

        # Options have no declared ranges. Here they must only be finite; the baseline or backbone
        # checks everything else.
        for section in ("encoder", "baseline"):
            for key, value in getattr(self, section).options.items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise UserError(f"{section}.options.{key} = {value} must be a finite number")

        self.encoder.check(self.model.dim)
        for part in (
            self.model,
            self.priors,
            self.baseline,
            self.plain,
            self.negatives,
            self.loss,
            self.repeats,
            self.table,
            self.items,
            self.sharding,
            self.training,
            self.evaluation,
        ):
            part.check()
        self.embedding.check(has_item_llm=bool(self.items.encoder))
        if self.negatives.near_duplicates < 1:
            self._check_near_duplicates()

        if self.baseline.name and self.priors.tree:
            raise UserError(
                f"baseline.name = {self.baseline.name!r} has no prior heads: give priors.tree=[]"
            )
        # A plain baseline has no negatives, and a repeat head predicts the seen items.
        if self.plain.name:
            self._check_plain()
        elif self.repeats.weight:
            self._check_repeats()
        elif not self.negatives.seen and not self.evaluation.filter_seen:
            raise UserError(
                "negatives.seen = false does not train the model to distinguish seen items from "
                "what comes next, so they must not be recommended: set evaluation.filter_seen = "
                "true, or negatives.seen = true, or add a head for them with repeats.weight = 1"
            )

        tables = [TABLE, *map(table_of_feature, self.encoder.item_features)]
        managed = TABLE if self.embedding.unseen == "managed" else None
        self.sharding.check_tables(tables, self.model.dim, managed)

    def _check_near_duplicates(self) -> None:
        """Raises UserError if near-duplicates of positives cannot be found."""
        # The key, whether it stands in the way, and the value to give.
        for key, given, value in (
            ("model.score", self.model.score != "cosine", '"cosine"'),
            ("loss.softmax", self.loss.softmax != "in_group", '"in_group"'),
            ("baseline.name", bool(self.baseline.name), '""'),
        ):
            if given:
                raise UserError(
                    f"negatives.near_duplicates = {self.negatives.near_duplicates} needs "
                    f"{key}={value}: set it, or negatives.near_duplicates=1"
                )

    def _check_repeats(self) -> None:
        """Raises UserError if other settings cannot be combined with a repeat head."""
        if self.negatives.seen:
            raise UserError(
                "repeats.weight: the repeat head learns seen items, and the prior heads new ones: "
                "set negatives.seen=false"
            )
        if self.baseline.name:
            raise UserError(
                f"repeats.weight: baseline.name = {self.baseline.name!r} has no repeat head: set "
                "repeats.weight=0"
            )

    def _check_plain(self) -> None:
        """Raises UserError if a setting needs a model that a plain baseline does not have."""
        # The key, whether it needs such a model, and the value without it.
        needs = [
            ("priors.tree", bool(self.priors.tree), "[]"),
            ("baseline.name", bool(self.baseline.name), '""'),
            ("repeats.weight", bool(self.repeats.weight), "0"),
            ("evaluation.calibrated", self.evaluation.calibrated, "false"),
            ("evaluation.fusion", self.evaluation.fusion != "max", '"max"'),
            ("embedding.content", bool(self.embedding.content), '""'),
            ("items.encoder", bool(self.items.encoder), '""'),
        ]
        for key, given, value in needs:
            if given:
                raise UserError(
                    f"plain.name = {self.plain.name!r} has no heads and no neural model: give "
                    f"{key}={value}"
                )
        if self.plain.of_seen_items and self.evaluation.filter_seen:
            raise UserError(
                f"plain.name = {self.plain.name!r} recommends what the history has, which is "
                "filtered: give evaluation.filter_seen=false"
            )

    def own_files(self) -> list[Path]:
        """Returns the custom Python files: those of priors, of the backbone and of the baseline."""
        named = [
            own_file(name)
            for name in (*self.priors.tree, self.encoder.backbone, self.baseline.name)
        ]
        return [file for file in named if file is not None]

    def to_toml(self) -> str:
        """Returns all settings as TOML, from which the same configuration can be read."""
        return tomli_w.dumps(asdict(self))

    def to_toml_for_checksums(self) -> str:
        """Returns all settings as TOML, with the former names of keys that were renamed.

        So the checksum of a configuration is the same as in earlier releases. These had no plain
        baselines and no repeat head, so their sections count only if they are used. The first
        repeat heads had no time bias, so it counts only if it is set. All softmaxes were in-group.
        Items had no content, and no encoder was a language model. No negative was left out as a
        near-duplicate, and all scales of cosines began at 20.
        """
        settings = with_former_keys(asdict(self))
        if not self.items.encoder:
            del settings["items"]
        if not self.sharding.language_models:
            del settings["sharding"]["language_models"]
        if self.negatives.near_duplicates == 1:
            del settings["negatives"]["near_duplicates"]
        if self.model.first_scale == ModelConfig.first_scale:
            del settings["model"]["first_scale"]
        if not self.embedding.content and not self.items.encoder:
            for key in ("content", "ids", "id_dropout"):
                del settings["embedding"][key]
        if not self.encoder.has_llm:
            del settings["encoder"]["llm"]
        if self.loss.softmax == "in_group":
            del settings["loss"]["softmax"]
        if not self.plain.name:
            del settings["plain"]
        if not self.repeats.weight:
            del settings["repeats"]
        elif not self.repeats.time_bias:
            del settings["repeats"]["time_bias"]
        return tomli_w.dumps(settings)

    def sha256(self) -> str:
        """Returns a checksum of the values; the order of keys in the file does not matter."""
        return hashlib.sha256(self.to_toml_for_checksums().encode()).hexdigest()


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


def explain(error: ValidationError, what: str, valid: Iterable[str]) -> str:
    """Returns one line about the first mistake in a TOML file.

    Args:
        error: pydantic's error.
        what: the word for a key in the message, such as "configuration key".
        valid: the valid keys.
    """
    key, problem = first_mistake(error)
    key = shortened(key, 200)
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown {what} '{key}': {nearest(key, valid)}"
    if problem["type"] == "missing":
        return f"{what} '{key}' is missing"

    hint = {
        "list_type": f""": write '{key}=["name"]', quoted for the shell""",
        "bool_type": ": write true or false",
    }.get(problem["type"], "")
    return f"{what} '{key}' = {shortened(repr(problem['input']))}: {problem['msg'].lower()}{hint}"


def first_mistake(error: ValidationError) -> tuple[str, Any]:
    """Returns the dotted key of the mistake to report, and pydantic's description of the mistake.

    Unknown keys come first, because they often explain the other mistakes. Wrong types follow, then
    values out of their range.
    """

    def order(problem: Any) -> int:
        if problem["type"] == "unexpected_keyword_argument":
            return 0
        return 2 if is_of_range(problem) else 1

    problem = min(error.errors(), key=order)
    return ".".join(str(part) for part in problem["loc"]), problem


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
