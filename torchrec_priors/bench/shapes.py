"""The shapes that are measured: sizes of batches, catalogues and prior trees."""

from dataclasses import dataclass
from typing import Any

from torchrec_priors.errors import UserError, nearest


@dataclass(frozen=True)
class Shape:
    """The sizes of a training step, or of a search for a batch of users.

    Attributes:
        name: the value of --shape.
        sequences: the number of windows of the batch, or of users.
        context: the largest number of items of a context.
        items: the number of items of the catalogue.
        horizon: the number of items after the context that are predicted (tau).
        tree: the levels of the prior tree (`priors.tree`), from the top.
        groups: the number of groups of the level with groups of items.
        labels: the average number of groups of an item; 1 if each item has exactly one.
        negatives: the number of negatives that are drawn in a step, over all item sets.
        by_share: whether item sets get negatives in proportion to their training positives; if not,
            all sets get the same number.
        dim, layers, heads: the sizes of the model.
        score: the setting `model.score`.
        top: the number of items to find, for a search; 0 for training.
    """

    name: str
    sequences: int
    context: int
    items: int
    horizon: int
    tree: tuple[str, ...]
    groups: int
    labels: float
    negatives: int
    by_share: bool = False
    dim: int = 128
    layers: int = 4
    heads: int = 4
    score: str = "dot"
    top: int = 0

    def config(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Returns the configuration of a run, as the tables of a TOML file.

        Args:
            changes: dotted name -> value, which replaces that of the shape.
        """
        if self.by_share:
            negatives = {"total": self.negatives}
        else:
            negatives = {"per_set": self.negatives // (self.groups or 1)}

        # Dropout and warm-up would add noise, and a limit of steps could end a measurement early.
        table: dict[str, Any] = {
            "model": {
                "dim": self.dim,
                "context": self.context,
                "horizon": self.horizon,
                "score": self.score,
            },
            "encoder": {"layers": self.layers, "heads": self.heads, "dropout": 0.0},
            "priors": {"tree": list(self.tree), "max_parameters": 1 << 40},
            "negatives": negatives,
            "evaluation": {},
            "training": {
                "batch": self.sequences,
                "steps": 1_000_000,
                "warmup": 0.0,
                "fit_all": True,
            },
        }

        for name, value in changes.items():
            section, key = name.split(".")
            table.setdefault(section, {})[key] = value
        return table


_SHAPES = (
    Shape(
        "merrec",
        sequences=64,
        context=400,
        items=1_255_665,
        horizon=1,
        tree=("event",),
        groups=6,
        labels=1.0,
        negatives=4_096,
        by_share=True,
    ),
    Shape(
        "pixel8m",
        sequences=128,
        context=50,
        items=398_261,
        horizon=8,
        tree=("temporal:8", "category"),
        groups=8,
        labels=2.9,
        negatives=8 * 1_024,
    ),
    Shape(
        "ebnerd",
        sequences=128,
        context=50,
        items=25_216,
        horizon=8,
        tree=("temporal:8", "community"),
        groups=11,
        labels=1.0,
        negatives=8_192,
        by_share=True,
    ),
    Shape(
        "retrieval",
        sequences=256,
        context=50,
        items=1_255_665,
        horizon=4,
        tree=("temporal:4", "category"),
        groups=8,
        labels=2.9,
        negatives=8 * 1_024,
        top=200,
    ),
)
SHAPES = {shape.name: shape for shape in _SHAPES}

# Parts of the product that are measured separately. Their rows differ from those of a shape.
PARTS = (
    "attention",
    "contention",
    "launches",
    "prepare",
    "reader",
    "requests",
    "scaling",
    "serve",
    "sharding",
)
NAMES = (*SHAPES, *PARTS)


def check_shape(name: str) -> None:
    """Raises UserError if the shape does not exist."""
    if name not in NAMES:
        raise UserError(f"--shape: there is no shape '{name}': {nearest(name, NAMES)}")
