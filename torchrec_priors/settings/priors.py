"""The section `[priors]`: the tree of prior heads."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from torchrec_priors.settings.ranges import Amount, CountOrZero, Section, check_ranges

Composition = Literal["hierarchical", "multiplicative", "additive"]


@dataclass
class PriorsConfig(Section):
    """Which prior heads the model has.

    Attributes:
        tree: priors, upper level first, each the name of a prior of the data set, `temporal:n`,
            `random:like`, `all:like` or `file.py:argument`; empty for one head.
        composition: `hierarchical` (Eq. 4-5: an adapter for every node), `multiplicative` (one
            adapter for every path) or `additive` (one adapter for every group of every prior,
            nothing combined).
        adapters: `matrix` (z + SiLU(W z), Eq. 2), or `vector` (z + e): a model that gets the group
            as an input.
        init_std: standard deviation of the adapters' first values; 0 as in the paper, where every
            head begins as the user state.
        min_positives: a path with fewer training positives has no adapter: its query is that of the
            node above it.
        max_parameters: most parameters of all adapters of the tree; a larger tree is rejected.
    """

    tree: list[str] = field(default_factory=list)
    composition: Composition = "hierarchical"
    adapters: Literal["matrix", "vector"] = "matrix"
    init_std: Amount = 0.0
    min_positives: CountOrZero = 1
    max_parameters: Annotated[int, Ge(0), Le(1 << 62)] = 100_000_000

    def check(self) -> None:
        """Raises UserError if a value is out of its range."""
        check_ranges(self, "priors")
