"""One typed run configuration: a TOML file plus `key=value` overrides. Unknown keys and wrong types are errors."""

import copy
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter, ValidationError

from torchrec_priors.common.files import check_file
from torchrec_priors.common.limits import MOST, check_most, shortened
from torchrec_priors.common.own_code import check_given
from torchrec_priors.common.plugin import absolute, own_file
from torchrec_priors.common.toml_text import NoTomlError, TomlError, parse_toml
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.remote.uri import refuse_uri
from torchrec_priors.settings.baseline import BaselineConfig
from torchrec_priors.settings.embedding import UnseenConfig
from torchrec_priors.settings.encoder import EncoderConfig
from torchrec_priors.settings.evaluation import RetrievalConfig
from torchrec_priors.settings.loss import LossConfig
from torchrec_priors.settings.model import ModelConfig
from torchrec_priors.settings.negatives import NegativesConfig
from torchrec_priors.settings.priors import PriorsConfig
from torchrec_priors.settings.sharding import ShardingConfig, TableSharding
from torchrec_priors.settings.sizes import with_size
from torchrec_priors.settings.table import TABLE, TableConfig, table_of_feature
from torchrec_priors.settings.training import TrainingConfig


@dataclass
class RunConfig:
    """Everything that decides a run's result, besides the data.

    Attributes:
        seed: of initial values, shuffling, dropout and negatives.
    """

    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    priors: PriorsConfig = field(default_factory=PriorsConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    table: TableConfig = field(default_factory=TableConfig)
    embedding: UnseenConfig = field(default_factory=UnseenConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: RetrievalConfig = field(default_factory=RetrievalConfig)

    def check(self) -> None:
        """Raises UserError where a value is out of its range or two do not fit."""
        if not 0 <= self.seed < 2**31:
            raise UserError(f"seed = {self.seed} must be in [0, 2^31)")
        for name in _SECTIONS:
            for key, value in vars(getattr(self, name)).items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise UserError(f"{name}.{key} = {value} must be a finite number")
                if isinstance(value, int | float) and not isinstance(value, bool):
                    check_most(f"{name}.{key}", value, _MOST.get(f"{name}.{key}", MOST))
        for section in ("encoder", "baseline"):
            for key, value in getattr(self, section).options.items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise UserError(f"{section}.options.{key} = {value} must be a finite number")

        self.encoder.check(self.model.dim)
        for part in (
            self.model,
            self.priors,
            self.baseline,
            self.negatives,
            self.loss,
            self.table,
            self.embedding,
            self.sharding,
            self.training,
            self.evaluation,
        ):
            part.check()

        if self.baseline.name and self.priors.tree:
            raise UserError(
                f"baseline.name = {self.baseline.name!r} has no prior heads: give priors.tree=[]"
            )
        if not self.negatives.met and not self.evaluation.filter_seen:
            raise UserError(
                "negatives.met = false leaves met items untold from what comes next, so they must not be recommended:"
                " set evaluation.filter_seen = true, or negatives.met = true"
            )

        tables = [TABLE, *map(table_of_feature, self.encoder.item_features)]
        managed = TABLE if self.embedding.unseen == "managed" else None
        self.sharding.check_tables(tables, self.model.dim, managed)

    def own_files(self) -> list[Path]:
        """Priors, a backbone and a baseline that are files of the user's own."""
        named = [
            own_file(name)
            for name in (*self.priors.tree, self.encoder.backbone, self.baseline.name)
        ]
        return [file for file in named if file is not None]

    def to_toml(self) -> str:
        return tomli_w.dumps(asdict(self))

    def sha256(self) -> str:
        return hashlib.sha256(self.to_toml().encode()).hexdigest()


# What is larger is a slip of the keyboard: nothing of this kind is trained, and making it would take all memory.
_MOST = {
    "model.dim": 1 << 16,
    "model.context": 1 << 20,
    "model.horizon": 1 << 12,
    "encoder.layers": 1 << 8,
    "negatives.popularity": 16,
    "priors.max_parameters": 1 << 62,
    "training.accumulate": 1 << 12,
    "training.workers": 1 << 8,
    "training.prefetch": 1 << 10,
    "training.timeout_seconds": 10**8,
}
_DEEPEST_KEY = 8  # sections of a dotted key; no setting has more than four

_SECTIONS = {
    name.name: name.default_factory for name in dataclasses.fields(RunConfig) if name.name != "seed"
}
for _part in (RunConfig, TableSharding, *_SECTIONS.values()):
    _part.__pydantic_config__ = {"extra": "forbid", "strict": True}  # type: ignore[union-attr]


def load_config(
    file: Path | str, overrides: Iterable[str] = (), *, trust: bool = False
) -> RunConfig:
    """The configuration of a TOML file, changed by overrides such as `model.dim=64` or `priors.tree=["genre"]`.

    Args:
        trust: files of own code may run, though the file came with a run of somebody else's.

    Raises:
        UserError: no such file, no TOML, an unknown key (with the nearest valid one), a value of the wrong type, own
            code that is not trusted.
    """
    values = read_toml(Path(file), "--config")
    config = with_changes(values, map(read_override, overrides))
    in_file = with_changes(values, ()).own_files() if config.own_files() else []
    check_given(Path(file), [own for own in in_file if own in config.own_files()], trust=trust)
    return config


def read_toml(path: Path, option: str) -> dict[str, Any]:
    """The values of a TOML file; `option` is what named it."""
    check_file(path, option)
    try:
        return parse_toml(path.read_text(encoding="utf8"))
    except OSError as error:
        raise UserError(f"{option}: '{path}' cannot be read: {error.strerror}") from error
    except (TomlError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {path} is not valid TOML: {error}") from error


def with_changes(values: Mapping[str, Any], changes: Iterable[tuple[str, Any]]) -> RunConfig:
    """The configuration of nested `values`, as TOML gives them, with pairs of a dotted key and a value put in their
    places; own files are named by their whole paths."""
    changed = copy.deepcopy(dict(values))
    for key, value in changes:
        _put(changed, key, value)
    config = parse(changed)
    config.priors.tree = [absolute(level) for level in config.priors.tree]
    config.encoder.backbone = absolute(config.encoder.backbone)
    config.baseline.name = absolute(config.baseline.name)
    if config.table.pretrained:
        refuse_uri(Path(config.table.pretrained), "table.pretrained")
        config.table.pretrained = str(Path(config.table.pretrained).absolute())
    if config.sharding.plan:
        config.sharding.plan = str(Path(config.sharding.plan).absolute())
    return config


def parse(values: dict[str, Any]) -> RunConfig:
    """A configuration from nested dictionaries, as TOML gives them."""
    try:
        config = _reader().validate_json(json.dumps(with_size(values), default=str))
    except ValidationError as error:
        raise UserError(_explain(error)) from error
    config.check()
    return config


@functools.cache
def _reader() -> TypeAdapter[RunConfig]:
    """Made once: it takes as long as a thousand configurations take to read."""
    return TypeAdapter(RunConfig)


def keys() -> list[str]:
    """Every valid key, with dots."""
    sections = {name: dataclasses.fields(part) for name, part in _SECTIONS.items()}  # type: ignore[arg-type]
    return ["seed", *(f"{name}.{item.name}" for name, items in sections.items() for item in items)]


def read_override(override: str) -> tuple[str, Any]:
    """The key and value of `key=value`, with the value as TOML or a bare word."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(
            f"'{shortened(override)}' is no override: write key=value, as in model.dim=64"
        )
    try:
        parsed = parse_toml(f"value = {text}")
    except NoTomlError:
        return key.strip(), text  # a bare word is a string
    except TomlError as error:
        raise UserError(f"'{shortened(override)}': {error}") from error
    if list(parsed) != ["value"]:
        raise UserError(
            f"'{shortened(' '.join(override.split()))}' is no override: give one key=value an argument"
        )
    return key.strip(), parsed["value"]


def write_override(key: str, value: Any) -> str:
    """`key=value`, as `read_override` reads it.

    >>> write_override("priors.tree", ["temporal:4", "genre"])
    'priors.tree=["temporal:4", "genre"]'
    """
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    if len(sections) > _DEEPEST_KEY:
        raise UserError(
            f"unknown configuration key '{shortened(key)}': {nearest(key[:100], keys())}"
        )
    place = values
    for section in sections:
        place = place.setdefault(section, {})
        if isinstance(place, dict):
            continue
        if section in _SECTIONS and key in keys():
            raise UserError(
                f"configuration key '{section}' = {shortened(repr(place))}: it must be a section, [{section}]"
            )
        raise UserError(f"unknown configuration key '{key}': {nearest(key, keys())}")
    place[last] = value


def _explain(error: ValidationError) -> str:
    valid = keys() if "." in first_mistake(error)[0] else ["seed", *_SECTIONS, *keys()]
    return explain(error, "configuration key", valid)


def explain(error: ValidationError, what: str, valid: Iterable[str]) -> str:
    """One line about the first mistake in a TOML file.

    Args:
        what: what a key of the file is called.
        valid: its keys.
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
    """(dotted key, what pydantic says); unknown keys first, as they explain the others."""
    problem = min(
        error.errors(), key=lambda problem: problem["type"] != "unexpected_keyword_argument"
    )
    return ".".join(str(part) for part in problem["loc"]), problem
