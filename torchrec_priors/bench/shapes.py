"""What is measured: sizes of batches, catalogues and prior trees."""

from dataclasses import dataclass
from typing import Any

from torchrec_priors.errors import UserError, nearest


@dataclass(frozen=True)
class Shape:
    """A step of training, or a batch of users to find items for.

    Attributes:
        sequences: windows of the batch, or users.
        context: most items of a context.
        items: of the catalogue.
        horizon: tau.
        tree: levels of the prior tree (`priors.tree`), the most telling first.
        groups: of the level with groups of items.
        labels: groups of an item, on average; 1 for a partition.
        negatives: draws a step over all item sets.
        by_share: whether item sets have them by their training positives, or all the same.
        score: `model.score`.
        top: items to find, for retrieval; 0 where it is training.
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
        """The run configuration, as tables of its TOML file; `changes` by dotted names win."""
        sets = 1 if not self.groups else self.groups
        table: dict[str, Any] = {
            "model": {
                "dim": self.dim,
                "context": self.context,
                "horizon": self.horizon,
                "score": self.score,
            },
            "encoder": {"layers": self.layers, "heads": self.heads, "dropout": 0.0},
            "priors": {"tree": list(self.tree), "max_parameters": 1 << 40},
            "negatives": {"total": self.negatives}
            if self.by_share
            else {"per_set": self.negatives // sets},
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


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("merrec", 64, 400, 1_255_665, 1, ("event",), 6, 1.0, 4_096, by_share=True),
        Shape("pixel8m", 128, 50, 398_261, 8, ("temporal:8", "category"), 8, 2.9, 8 * 1_024),
        Shape(
            "ebnerd", 128, 50, 25_216, 8, ("temporal:8", "community"), 11, 1.0, 8_192, by_share=True
        ),
        Shape(
            "retrieval",
            256,
            50,
            1_255_665,
            4,
            ("temporal:4", "category"),
            8,
            2.9,
            8 * 1_024,
            top=200,
        ),
    )
}


PARTS = (
    "attention",
    "prepare",
    "reader",
    "scaling",
    "sharding",
)  # of the whole, each with rows of its own
NAMES = (*SHAPES, *PARTS)


def check_shape(name: str) -> None:
    """Raises UserError where there is no such shape."""
    if name not in NAMES:
        raise UserError(f"--shape: there is no shape '{name}': {nearest(name, NAMES)}")
