"""The section `[search]` of an experiment's file."""

from dataclasses import dataclass, field
from typing import Any, Literal

from torchrec_priors.common.limits import check_most
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.metrics.per_user import CUTOFFS, KINDS

_MOST_TRIALS = 100_000

# Metrics of which a larger value is better. Metrics of only some users exist for the kinds in
# `KINDS`.
_KINDS = (*KINDS, "coverage", "novelty")
_SOME_USERS = ("new_interest", "event_given")
METRICS = [f"{kind}@{cutoff}" for kind in _KINDS for cutoff in CUTOFFS]
METRICS += [
    f"{users}/{kind}@{cutoff}" for users in _SOME_USERS for kind in KINDS for cutoff in CUTOFFS
]


@dataclass
class CellSearch:
    """The search for a single cell.

    Attributes:
        space: further keys, or other values for keys of the space of all cells.
        like: the name of another cell. This cell has no trials and takes the values that were
            chosen for the other one. It is meant for cells that differ only in `evaluation` and
            share a training.
    """

    space: dict[str, Any] = field(default_factory=dict)
    like: str = ""


@dataclass
class SearchSettings:
    """The values that are tried, the number of trials, and the metric by which values are chosen.

    Attributes:
        trials: the number of trials of every cell; the first trial is the cell without changes.
        seeds: the seeds that are trained for every trial; the trial's score is the mean over them.
        metric: a metric of the evaluation; a larger value is better.
        split: always validation, so that values are never chosen on the test split.
        batch: the number of trials of a cell that are proposed together, before any is scored.
        seed: the seed of the proposals.
        space: dotted or nested key of the configuration -> list of values, or `{low, high}`. With
            `log = true`, values are drawn uniformly on a logarithmic scale.
        cells: name of a cell -> its search, if it differs from the others.
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
        """Raises UserError for values of the right type that make no sense in a search."""
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
