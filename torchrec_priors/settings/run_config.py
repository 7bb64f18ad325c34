"""The configuration of a run: all its sections, and the rules between them.

`config.py` reads it from TOML and overrides.
"""

import hashlib
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tomli_w
from annotated_types import Ge, Lt

from torchrec_priors.common.plugin import own_file
from torchrec_priors.errors import UserError
from torchrec_priors.settings.baseline import BaselineConfig
from torchrec_priors.settings.embedding import UnseenConfig
from torchrec_priors.settings.encoder import EncoderConfig
from torchrec_priors.settings.evaluation import RetrievalConfig
from torchrec_priors.settings.former_keys import with_former_keys
from torchrec_priors.settings.items import ItemsConfig
from torchrec_priors.settings.loss import LossConfig
from torchrec_priors.settings.model import ModelConfig
from torchrec_priors.settings.negatives import NegativesConfig
from torchrec_priors.settings.plain import PlainConfig
from torchrec_priors.settings.priors import PriorsConfig
from torchrec_priors.settings.ranges import Section, check_ranges
from torchrec_priors.settings.repeats import RepeatsConfig
from torchrec_priors.settings.sharding import ShardingConfig
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
        self._check_options()

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
        else:
            self._check_seen_items()

        tables = [TABLE, *map(table_of_feature, self.encoder.item_features)]
        managed = TABLE if self.embedding.unseen == "managed" else None
        self.sharding.check_tables(tables, self.model.dim, managed)

    def _check_options(self) -> None:
        """Raises UserError if an option is not finite.

        Options have no declared ranges. The baseline or backbone checks everything else.
        """
        for section in ("encoder", "baseline"):
            for key, value in getattr(self, section).options.items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise UserError(f"{section}.options.{key} = {value} must be a finite number")

    def _check_seen_items(self) -> None:
        """Raises UserError if seen items may be recommended, but nothing learns them."""
        if not self.negatives.seen and not self.evaluation.filter_seen:
            raise UserError(
                "negatives.seen = false does not train the model to distinguish seen items from "
                "what comes next, so they must not be recommended: set evaluation.filter_seen = "
                "true, or negatives.seen = true, or add a head for them with repeats.weight = 1"
            )

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
        near-duplicate, and all scales of cosines began at 20. Products were of float32. No content
        was mapped.
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
        if self.training.products == TrainingConfig.products:
            del settings["training"]["products"]
        if not self.embedding.content and not self.items.encoder:
            for key in ("content", "ids", "id_dropout"):
                del settings["embedding"][key]
        if not self.embedding.map_content:
            del settings["embedding"]["map_content"]
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
