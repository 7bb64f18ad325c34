"""The name of a configuration in the paper's tables, and the properties that determine it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrec_priors.common.limits import whole_number

_DATA_KINDS = ("item", "graph", "event", "user")
_CONTROLS = ("random", "all")
_TITLES = {
    "item": "Item",
    "graph": "Graph",
    "event": "Event",
    "user": "User",
    "random": "Random",
    "all": "All",
}
_OTHER_TITLE = "own prior"
_COMPOSITIONS = {"hierarchical": "Hier", "multiplicative": "Mult", "additive": "Add"}
_BASELINE_MODELS = {
    "comirec": "ComiRec",
    "remi": "REMI",
    "mind": "MIND",
    "dualvae": "DualVAE",
    "sasrec": "SASRec",
    "llm": "LLM",
    "popularity": "Popularity",
    "item_knn": "Item-kNN",
    "transitions": "Transitions",
    "ease": "EASE",
}

# Settings of an evaluation that leave the ranking to the heads. All other settings adjust it
# afterwards.
_PLAIN = ("filter_seen", "fusion", "calibrated", "normaliser_rows", "batch", "tiles")


@dataclass(frozen=True)
class Variant:
    """The properties by which the paper's tables distinguish models.

    Attributes:
        kinds: the kinds of the tree's levels, from the top.
        segments: the number of segments of the horizon; 0 for a next-item model, 1 for the
            discounted loss (LT/ST_1).
        in_group: whether some negatives are of the target's own group.
        baseline_model: the name of a baseline model, of a plain baseline, or of a backbone other
            than HSTU; "" for none.
        adjusted: whether recommendations are changed after the model has ranked them.
    """

    kinds: tuple[str, ...]
    segments: int
    composition: str
    fusion: str
    gamma: float
    balance: float
    in_group: bool
    horizon: int
    context: int
    dim: int
    layers: int
    baseline_model: str
    adjusted: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], prior_kinds: Mapping[str, str]) -> "Variant":
        """Returns the variant of a configuration.

        Args:
            config: dotted key -> value, for every setting (`with_defaults`).
            prior_kinds: name of a prior of the data set -> its kind.
        """
        levels = [_level(level, prior_kinds) for level in config["priors.tree"]]
        horizon = config["model.horizon"]

        return cls(
            kinds=tuple(kind for kind, _ in levels),
            segments=_segments(levels, horizon),
            composition=config["priors.composition"],
            fusion=config["evaluation.fusion"],
            gamma=config["loss.gamma"],
            balance=config["loss.balance"],
            in_group=config["negatives.catalogue_share"] < 1,
            horizon=horizon,
            context=config["model.context"],
            dim=config["model.dim"],
            layers=config["encoder.layers"],
            baseline_model=_baseline_model(config),
            adjusted=_is_adjusted(config),
        )

    @property
    def plain(self) -> bool:
        """Whether this is one head of HSTU."""
        return not self.kinds and not self.baseline_model and not self.adjusted

    @property
    def ours(self) -> bool:
        """Whether this is HSTU with human priors or with their controls."""
        if self.baseline_model or self.adjusted:
            return False
        return bool(self.kinds) or self.segments == 1

    @property
    def control(self) -> bool:
        """Whether the heads have groups that carry no meaning, as in a control."""
        return any(kind in _CONTROLS for kind in self.kinds)

    @property
    def others(self) -> tuple[str, ...]:
        """The kinds of the levels other than the temporal one."""
        return tuple(kind for kind in self.kinds if kind != "temporal")

    @property
    def name(self) -> str:
        """The name in the paper's tables, such as "LT/ST_2 + Item (Add)".

        With another backbone than HSTU, such as an LLM, it is "LLM" or "LLM: LT/ST_2 + Item (Add)".
        """
        if not self.baseline_model:
            return self._tree_name
        # Only another backbone can have heads; a baseline model has none.
        if self.kinds:
            return f"{self.baseline_model}: {self._tree_name}"
        return self.baseline_model

    @property
    def _tree_name(self) -> str:
        """The name of the heads."""
        parts = []
        if self.segments:
            parts.append(f"LT/ST_{self.segments}")
        parts += [_TITLES.get(kind, _OTHER_TITLE) for kind in self.others]
        name = " + ".join(parts) or "No prior"
        if len(self.kinds) > 1:
            name += f" ({_COMPOSITIONS.get(self.composition, self.composition)})"
        return name

    @property
    def role(self) -> str:
        """The row of Table 2, such as "HSTU", "+Item", "+Both", or the name of a baseline model."""
        if self.baseline_model:
            return self.baseline_model
        if not self.others:
            return "HSTU" if self.segments == 0 else "+LT/ST"
        # "Both" are several temporal heads and one other kind of prior.
        if self.segments > 1 and len(set(self.others)) == 1:
            return "+Both"

        titles = dict.fromkeys(_TITLES.get(kind, _OTHER_TITLE) for kind in self.others)
        return "+" + " and ".join(titles)


def _level(level: str, prior_kinds: Mapping[str, str]) -> tuple[str, int]:
    """Returns the kind of a level of the tree, and its number of segments (0 if not temporal)."""
    kind, _, argument = level.partition(":")
    if kind == "temporal":
        return kind, whole_number(argument) or 1
    # A name may be both a prior of the data set and a kind: then it means the prior.
    if level in prior_kinds:
        return prior_kinds[level], 0
    if kind in (*_DATA_KINDS, *_CONTROLS):
        return kind, 0
    return "own", 0


def _segments(levels: list[tuple[str, int]], horizon: int) -> int:
    """Returns the number of segments of the horizon, see `Variant.segments`."""
    for kind, segments in levels:
        if kind == "temporal":
            return segments
    return 1 if horizon > 1 else 0


def _baseline_model(config: Mapping[str, Any]) -> str:
    """Returns the name of the baseline, plain or not, or of the other backbone; "" for none."""
    name = str(config["plain.name"] or config["baseline.name"])
    backbone = str(config["encoder.backbone"])
    if not name and backbone != "hstu":
        name = backbone
    return _BASELINE_MODELS.get(name, Path(name).stem)


def _is_adjusted(config: Mapping[str, Any]) -> bool:
    """Whether a setting of the evaluation changes the lists after the ranking."""
    for key, value in config.items():
        if key.startswith("evaluation.") and value and key.split(".")[1] not in _PLAIN:
            return True
    return False
