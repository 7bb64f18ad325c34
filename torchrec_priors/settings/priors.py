"""Settings of the prior tree."""

from dataclasses import dataclass, field
from typing import Literal

from torchrec_priors.errors import UserError

Composition = Literal["hierarchical", "multiplicative", "additive"]


@dataclass
class PriorsConfig:
    """Which prior heads there are.

    Attributes:
        tree: priors, upper level first, each the name of a prior of the data set, `temporal:n`, `random:like`,
            `all:like` or `file.py:argument`; empty for one head.
        composition: `hierarchical` (Eq. 4-5: an adapter for every node), `multiplicative` (one adapter for every path)
            or `additive` (one adapter for every group of every prior, nothing combined).
        adapters: `matrix` (z + SiLU(W z), Eq. 2), or `vector` (z + e): a model that is told the group as an input.
        init_std: standard deviation of the adapters' first values; 0 as in the paper, where every head begins as the
            user state.
        min_positives: a path with fewer training positives has no adapter: its query is that of the node above it.
        max_parameters: of all adapters of the tree; a larger tree is refused.
    """

    tree: list[str] = field(default_factory=list)
    composition: Composition = "hierarchical"
    adapters: Literal["matrix", "vector"] = "matrix"
    init_std: float = 0.0
    min_positives: int = 1
    max_parameters: int = 100_000_000

    def check(self) -> None:
        for name in ("init_std", "min_positives", "max_parameters"):
            if getattr(self, name) < 0:
                raise UserError(f"priors.{name} = {getattr(self, name)} must not be negative")
