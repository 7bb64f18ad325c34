"""What a row gains over the reference row, and for whom: paired bootstraps over users and seeds.

Shapes: U users, M metrics (`COMPARED`), G groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from torchrec_priors.experiment.per_user import COMPARED
from torchrec_priors.experiment.statistics import RESAMPLES, Difference, Interval, intervals_of
from torchrec_priors.report.sections import Row, Section
from torchrec_priors.report.users import PerUser

SMALLEST = 20  # users of a group, for an interval

# Bounds of the time that bootstraps take.
_DRAWS = 200_000_000  # users drawn in a bootstrap
_DRAWS_OF_A_GROUP = 20_000_000
_RESAMPLES_OF_A_GROUP = 2000  # at most
_FEWEST = 200  # resamples

_NDCG = COMPARED.index("ndcg@10")
_OVER = [_NDCG, COMPARED.index("entropy@10")]  # the metrics of `Over`


@dataclass(frozen=True)
class Gain:
    """A gain in ndcg of some users.

    Attributes:
        of: who they are, or which items.
        before: the reference row's value.
    """

    of: str
    users: int
    before: float
    interval: Interval

    @property
    def sign(self) -> int:
        """1 or -1 if the whole interval is on one side of 0, else 0."""
        return sign(self.interval)


@dataclass(frozen=True)
class Over:
    """What a row has more than another one, in ndcg and entropy.

    Attributes:
        row: the other one.
        seeds: as those of `Gains`.
    """

    row: Row
    ndcg: Interval
    entropy: Interval
    seeds: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass
class Gains:
    """The gains of one row over the reference row.

    Attributes:
        overall: by metric.
        seeds: the row's and the reference row's seeds that all differences to it use: those that
            both have, or all of each if they share none.
        newcomers: users with a target of a category that is new to them; None if there are too few.
        user_groups: by prior of users, the largest group first.
        item_groups: of the category prior.
        over: by label, the differences of a model with priors to each row without priors and to
            each control, the reference row among them; of a re-ranked model to the same model
            before.
    """

    overall: dict[str, Interval]
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    newcomers: Gain | None = None
    user_groups: dict[str, list[Gain]] = field(default_factory=dict)
    item_groups: list[Gain] = field(default_factory=list)
    over: dict[str, Over] = field(default_factory=dict)

    @property
    def of_one_seed(self) -> bool:
        """Whether a side has one seed only."""
        return min(map(len, self.seeds)) == 1

    def groups(self) -> list[Gain]:
        """The gains of all groups, items first."""
        of_users = [gain for gains in self.user_groups.values() for gain in gains]
        return [*self.item_groups, *of_users]


def sign(interval: Interval) -> int:
    """1 or -1 if the whole interval is on one side of 0, else 0."""
    if interval.low > 0:
        return 1
    if interval.high < 0:
        return -1
    return 0


def resamples(users: int, draws: int = _DRAWS) -> int:
    """The number of resamples of a bootstrap, fewer for many users."""
    return int(np.clip(draws // max(users, 1), _FEWEST, RESAMPLES))


def gains_of(section: Section, per_user: PerUser) -> dict[str, Gains]:
    """Gains by label of the rows with values of users; empty if the reference row has none."""
    base = section.reference
    rows = [row for row in section.rows if row is not base and row.label in per_user.values]
    if base.label not in per_user.values or not rows:
        return {}
    people = per_user.people

    # One bootstrap for all differences: they share its draws.
    pairs = [(row, other) for row in rows for other in _compared_with(section, row, per_user)]
    to_base = [_difference(per_user.values, row, base) for row in rows]
    # Other rows are compared in two metrics only: there are many pairs.
    to_others = [_difference(per_user.values, row, other).of(metrics=_OVER) for row, other in pairs]
    intervals = intervals_of([*to_base, *to_others], resamples(len(people)))
    # The first intervals are those of `to_base`, the others those of `to_others`.
    gains = {
        row.label: Gains(dict(zip(COMPARED, of_row, strict=True)), difference.seeds)
        for row, difference, of_row in zip(rows, to_base, intervals, strict=False)
    }
    overs = zip(pairs, to_others, intervals[len(rows) :], strict=True)
    for (row, other), difference, (ndcg, entropy) in overs:
        gains[row.label].over[other.label] = Over(other, ndcg, entropy, difference.seeds)

    in_ndcg = [difference.of(metrics=[_NDCG]) for difference in to_base]
    # Of the mean over the reference row's seeds, whether or not they are shared.
    base_U = np.mean(list(per_user.values[base.label].values()), 0)[:, _NDCG]
    newcomers = _of_users("users with a new interest", people.newcomer_U, in_ndcg, base_U)
    for row, gain in zip(rows, newcomers, strict=False):
        gains[row.label].newcomers = gain

    for prior, groups in people.groups.items():
        for group, in_group_U in groups.items():
            of_group = _of_users(group, in_group_U, in_ndcg, base_U)
            # Nothing for a group that is too small, else a gain for each row.
            for row, gain in zip(rows, of_group, strict=False):
                gains[row.label].user_groups.setdefault(prior, []).append(gain)

    _add_item_groups(gains, rows, base, per_user)
    return gains


def _add_item_groups(
    gains: Mapping[str, Gains], rows: Sequence[Row], base: Row, per_user: PerUser
) -> None:
    """Adds the gains for each group of items, of the users who have targets in the group."""
    base_UG = np.mean(list(per_user.groups[base.label].values()), 0)
    differences = [_difference(per_user.groups, row, base) for row in rows]
    for number, group in enumerate(per_user.category.groups):
        in_group = [difference.of(metrics=[number]) for difference in differences]
        has_target_U = ~np.isnan(base_UG[:, number])
        of_group = _of_users(group, has_target_U, in_group, base_UG[:, number])
        for row, gain in zip(rows, of_group, strict=False):
            gains[row.label].item_groups.append(gain)


def _difference(values: Mapping[str, Mapping[int, np.ndarray]], row: Row, other: Row) -> Difference:
    """Row minus the other one."""
    return Difference.between(values[row.label], values[other.label])


def _compared_with(section: Section, row: Row, per_user: PerUser) -> list[Row]:
    """See `Gains.over`."""
    others: list[Row] = []
    if row.variant.ours:
        others = [
            other for other in section.rows if not other.variant.kinds or other.variant.control
        ]
    elif row.variant.kinds and row.variant.adjusted:
        # The model before it was re-ranked: another evaluation of the same runs.
        runs = {result.run.path for result in row.results}
        others = [
            other
            for other in section.rows
            if other.variant.ours and runs <= {result.run.path for result in other.results}
        ]

    return [other for other in others if other is not row and other.label in per_user.values]


def _of_users(
    name: str, chosen_U: np.ndarray, differences: Sequence[Difference], base_U: np.ndarray
) -> list[Gain]:
    """A gain of some users for each difference in one metric; empty if the users are too few."""
    users = int(chosen_U.sum())
    if users < SMALLEST:
        return []
    of_users = [difference.of(users=chosen_U) for difference in differences]
    draws = min(_RESAMPLES_OF_A_GROUP, resamples(users, _DRAWS_OF_A_GROUP))
    before = float(base_U[chosen_U].mean())
    intervals = intervals_of(of_users, draws)
    return [Gain(name, users, before, interval) for (interval,) in intervals]
