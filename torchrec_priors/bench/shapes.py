"""What is measured: sizes of batches, catalogues and prior trees."""

from dataclasses import dataclass
from typing import Any

from torchrec_priors.errors import UserError, nearest


@dataclass(frozen=True)
class Shape:
    """A step of training, or a batch of users to find items for.

    Attributes:
        name: the value of --shape.
        sequences: windows of the batch, or users.
        context: items of a context, at most.
        items: items of the catalogue.
        horizon: tau.
        tree: levels of the prior tree (`priors.tree`), from the top.
        groups: number of groups of the level with groups of items.
        labels: groups of an item, on average; 1 for a partition.
        negatives: number of draws in a step over all item sets.
        by_share: whether item sets have them by their share of training positives, or all the same.
        dim, layers, heads: sizes of the model.
        score: `model.score`.
        top: number of items to find, for retrieval; 0 for training.
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
        """Returns the run's configuration as tables of a TOML file.

        Args:
            changes: values by dotted names, which replace the shape's.
        """
        if self.by_share:
            negatives = {"total": self.negatives}
        else:
            negatives = {"per_set": self.negatives // (self.groups or 1)}

        # Dropout, warm-up and a limit of steps would only add noise or end a measurement.
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
            table[section][key] = value
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

# Parts of the whole, each with rows of its own instead of a shape's variants.
PARTS = ("attention", "prepare", "reader", "scaling", "sharding")
NAMES = (*SHAPES, *PARTS)


def check_shape(name: str) -> None:
    """Raises UserError if there is no such shape."""
    if name not in NAMES:
        raise UserError(f"--shape: there is no shape '{name}': {nearest(name, NAMES)}")
