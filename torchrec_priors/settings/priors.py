"""The section `[priors]`: the tree of prior heads."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from torchrec_priors.settings.ranges import Amount, CountOrZero, Section, check_ranges

Composition = Literal["hierarchical", "multiplicative", "additive"]


@dataclass
class PriorsConfig(Section):
    """The prior heads of the model.

    Attributes:
        tree: the priors of the tree's levels, the upper level first. Each is the name of a prior of
            the data set, `temporal:n`, `random:like`, `all:like` or `file.py:argument`. An empty
            list gives a model with one head.
        composition: `hierarchical` (Eq. 4-5: an adapter for every node), `multiplicative` (an
            adapter for every path) or `additive` (an adapter for every group of every prior, which
            are not combined).
        adapters: `matrix` (z + SiLU(W z), Eq. 2), `vector` (z + e, which only adds a vector for
            each group to the user state) or `none` (the query of every head is the user state: with
            `loss.softmax = "joint"`, heads then differ in the logits of their groups only).
        init_std: standard deviation of the adapters' initial values. With 0, as in the paper, the
            query of every head is the user state at first.
        min_positives: the number of training positives that a path needs to get an adapter. A path
            with fewer uses the query of the node above it.
        max_parameters: the largest number of parameters of all adapters together; a larger tree is
            rejected.
    """

    tree: list[str] = field(default_factory=list)
    composition: Composition = "hierarchical"
    adapters: Literal["matrix", "vector", "none"] = "matrix"
    init_std: Amount = 0.0
    min_positives: CountOrZero = 1
    max_parameters: Annotated[int, Ge(0), Le(1 << 62)] = 100_000_000

    def check(self) -> None:
        """Raises UserError if a value is out of its range."""
        check_ranges(self, "priors")
