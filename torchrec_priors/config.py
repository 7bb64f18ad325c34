"""One typed run configuration: a TOML file plus `key=value` overrides. Unknown keys and wrong types are errors."""

import dataclasses
import hashlib
import json
import math
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter, ValidationError

from torchrec_priors.embedding.table import TableConfig
from torchrec_priors.encoder.encoder import EncoderConfig
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.loss import LossConfig
from torchrec_priors.model import ModelConfig
from torchrec_priors.plugin import absolute, own_file
from torchrec_priors.priors.tree import PriorsConfig
from torchrec_priors.retrieval.find import RetrievalConfig
from torchrec_priors.sampling.group_sampler import NegativesConfig
from torchrec_priors.sizes import with_size
from torchrec_priors.training.settings import TrainingConfig


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
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    table: TableConfig = field(default_factory=TableConfig)
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
        if self.evaluation.calibrated and not self.loss.gate:
            raise UserError("evaluation.calibrated needs a gate: set loss.gate=1")
        self.encoder.check(self.model.dim)
        for part in (self.model, self.priors, self.negatives, self.loss, self.table, self.training, self.evaluation):
            part.check()

    def own_files(self) -> list[Path]:
        """Priors and a backbone that are files of the user's own."""
        named = [own_file(name) for name in (*self.priors.tree, self.encoder.backbone)]
        return [file for file in named if file is not None]

    def to_toml(self) -> str:
        return tomli_w.dumps(asdict(self))

    def sha256(self) -> str:
        return hashlib.sha256(self.to_toml().encode()).hexdigest()


_SECTIONS = {name.name: name.default_factory for name in dataclasses.fields(RunConfig) if name.name != "seed"}
for _part in (RunConfig, *_SECTIONS.values()):
    _part.__pydantic_config__ = {"extra": "forbid", "strict": True}  # type: ignore[union-attr]


def load_config(file: Path | str, overrides: list[str] | None = None) -> RunConfig:
    """The configuration of a TOML file, changed by overrides such as `model.dim=64` or `priors.tree=["genre"]`.

    Raises:
        UserError: no such file, no TOML, an unknown key (with the nearest valid one), a value of the wrong type.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"--config: there is no file '{path}'")
    try:
        values = tomllib.loads(path.read_text(encoding="utf8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config: {path} is not valid TOML: {error}") from error
    for override in overrides or []:
        _apply(values, override)
    config = parse(values)
    config.priors.tree = [absolute(level) for level in config.priors.tree]
    config.encoder.backbone = absolute(config.encoder.backbone)
    return config


def parse(values: dict[str, Any]) -> RunConfig:
    """A configuration from nested dictionaries, as TOML gives them."""
    try:
        config: RunConfig = TypeAdapter(RunConfig).validate_json(json.dumps(with_size(values), default=str))
    except ValidationError as error:
        raise UserError(_explain(error)) from error
    config.check()
    return config


def keys() -> list[str]:
    """Every valid key, with dots."""
    sections = {name: dataclasses.fields(part) for name, part in _SECTIONS.items()}  # type: ignore[arg-type]
    return ["seed", *(f"{name}.{item.name}" for name, items in sections.items() for item in items)]


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"'{override}' is no override: write key=value, as in model.dim=64")
    try:
        parsed = tomllib.loads(f"value = {text}")
        if list(parsed) != ["value"]:
            raise UserError(f"'{' '.join(override.split())}' is no override: give one key=value an argument")
        value = parsed["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *sections, last = key.strip().split(".")
    place = values
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise UserError(f"unknown configuration key '{key}': {nearest(key, keys())}")
    place[last] = value


def _explain(error: ValidationError) -> str:
    """One line about the first mistake; unknown keys first, as they explain the others."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "unexpected_keyword_argument")
    problem = problems[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        valid = keys() if "." in key else ["seed", *_SECTIONS, *keys()]
        return f"unknown configuration key '{key}': {nearest(key, valid)}"
    hint = {
        "list_type": f""": write '{key}=["name"]', quoted for the shell""",
        "bool_type": ": write true or false",
    }.get(problem["type"], "")
    return f"configuration key '{key}' = {problem['input']!r}: {problem['msg'].lower()}{hint}"
