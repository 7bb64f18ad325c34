"""The section `[search]` of an experiment's file."""

from dataclasses import dataclass, field
from typing import Any, Literal

from torchrec_priors.common.limits import check_most
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.metrics.per_user import CUTOFFS, KINDS

_MOST_TRIALS = 100_000

# Metrics of which more is better; those of some users only are of the first three kinds.
# Metrics of which more is better.
_KINDS = (*KINDS, "coverage", "novelty")
_SOME_USERS = ("new_interest", "event_given")
METRICS = [f"{kind}@{cutoff}" for kind in _KINDS for cutoff in CUTOFFS]
METRICS += [
    f"{users}/{kind}@{cutoff}" for users in _SOME_USERS for kind in KINDS for cutoff in CUTOFFS
]


@dataclass
class CellSearch:
    """What is searched for one cell only.

    Attributes:
        space: further keys, or other values of those of all cells.
        like: another cell, whose chosen values this one takes, without trials of its own: for cells
            that differ in `evaluation` only and share its training.
    """

    space: dict[str, Any] = field(default_factory=dict)
    like: str = ""


@dataclass
class SearchSettings:
    """Which values are tried, how often, and by what they are chosen.

    Attributes:
        trials: of every cell; the first is the cell without changes.
        seeds: trained for every trial, whose score is their mean.
        metric: of the evaluation, more of which is better.
        split: what is evaluated; there is no choice, so nothing is chosen on what is reported.
        batch: trials of a cell that are proposed together, before the score of any is known.
        seed: of the proposals.
        space: dotted or nested key of the configuration -> list of values, or `{low, high}`, with
            `log = true` if every factor should be equally likely.
        cells: by name.
    """

    trials: int
    seeds: list[int] = field(default_factory=lambda: [0])
    metric: str = "ndcg@10"
    split: Literal["validation"] = "validation"
    batch: int = 4
    seed: int = 0
    space: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, CellSearch] = field(default_factory=dict)

    def check(self) -> None:
        """Raises UserError for values that their types allow and a search does not."""
        for name in ("trials", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"search.{name} = {getattr(self, name)} must be at least 1")
            check_most(f"search.{name}", getattr(self, name), _MOST_TRIALS)
        if not 0 <= self.seed < 2**31:
            raise UserError(f"search.seed = {self.seed} must be in [0, 2^31)")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"search.seeds = {self.seeds}: give at least one, and none twice")

        if self.metric not in METRICS:
            raise UserError(
                f"search.metric: there is no '{self.metric}': {nearest(self.metric, METRICS)}"
            )
        if not self.space and not any(cell.space for cell in self.cells.values()):
            raise UserError("[search] names no values to try: give [search.space]")


for _part in (CellSearch, SearchSettings):
    _part.__pydantic_config__ = {"extra": "forbid", "strict": True}  # type: ignore[union-attr]
