"""Gains of rows over the reference row, for all users and for groups: paired bootstraps.

Shapes: U users, M metrics (`COMPARED`), G groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from torchrec_priors.experiments.per_user import COMPARED
from torchrec_priors.experiments.statistics import RESAMPLES, Difference, Interval, intervals_of
from torchrec_priors.report.sections import Row, Section
from torchrec_priors.report.users import PerUser

SMALLEST = 20  # users; a smaller group gets no interval

# Limits for the time that bootstraps take.
_DRAWS = 200_000_000  # users drawn in a bootstrap
_DRAWS_OF_A_GROUP = 20_000_000
_RESAMPLES_OF_A_GROUP = 2000  # at most
_FEWEST = 200  # resamples

_NDCG = COMPARED.index("ndcg@10")
_OVER = [_NDCG, COMPARED.index("entropy@10")]  # the metrics of `Over`


@dataclass(frozen=True)
class Gain:
    """The gain of some users in ndcg.

    Attributes:
        of: the name of the group of users or items.
        users: the number of users.
        before: the reference row's ndcg for these users.
        interval: the difference from the reference row.
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
    """The difference between a row and another row, in ndcg and entropy.

    Attributes:
        row: the other row.
        seeds: the seeds of both rows that the difference uses, as in `Gains`.
    """

    row: Row
    ndcg: Interval
    entropy: Interval
    seeds: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass
class Gains:
    """The gains of one row over the reference row.

    Attributes:
        overall: metric -> the gain of all users.
        seeds: the seeds of the row and of the reference row that the differences use: the seeds
            that both rows have, or all seeds of each row if they share none.
        newcomers: the gain of users with a target in a category that is new to them; None if there
            are too few such users.
        user_groups: prior of users -> the gain of each group, the largest group first.
        item_groups: the gain in each group of the category prior.
        over: label -> the difference from this other row. A model with priors is compared with each
            row without priors (the reference row is one of them) and with each control. A re-ranked
            model is compared with the same model before the re-ranking.
    """

    overall: dict[str, Interval]
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    newcomers: Gain | None = None
    user_groups: dict[str, list[Gain]] = field(default_factory=dict)
    item_groups: list[Gain] = field(default_factory=list)
    over: dict[str, Over] = field(default_factory=dict)

    @property
    def of_one_seed(self) -> bool:
        """Whether one of the two rows has only one seed."""
        return min(map(len, self.seeds)) == 1

    def groups(self) -> list[Gain]:
        """Returns the gains of all groups, groups of items first."""
        of_users = [gain for gains in self.user_groups.values() for gain in gains]
        return [*self.item_groups, *of_users]


def sign(interval: Interval) -> int:
    """Returns 1 or -1 if the whole interval is on one side of 0, else 0."""
    if interval.low > 0:
        return 1
    if interval.high < 0:
        return -1
    return 0


def resamples(users: int, draws: int = _DRAWS) -> int:
    """Returns the number of resamples of a bootstrap: the more users, the fewer."""
    return int(np.clip(draws // max(users, 1), _FEWEST, RESAMPLES))


def gains_of(section: Section, per_user: PerUser) -> dict[str, Gains]:
    """Computes the gains of all rows for which the metrics of single users are known.

    Returns:
        label -> its gains; empty if the users' metrics are unknown for the reference row.
    """
    base = section.reference
    rows = [row for row in section.rows if row is not base and row.label in per_user.values]
    if base.label not in per_user.values or not rows:
        return {}
    people = per_user.people

    # One bootstrap computes all differences, so they all use the same draws of users.
    pairs = [(row, other) for row in rows for other in _compared_with(section, row, per_user)]
    to_base = [_difference(per_user.values, row, base) for row in rows]
    # There are many pairs with other rows, so these are compared in only two metrics.
    to_others = [_difference(per_user.values, row, other).of(metrics=_OVER) for row, other in pairs]
    intervals = intervals_of([*to_base, *to_others], resamples(len(people)))
    # The first intervals are those of `to_base`, the others those of `to_others`.
    gains = {
        row.label: Gains(dict(zip(COMPARED, by_metric, strict=True)), difference.seeds)
        for row, difference, by_metric in zip(rows, to_base, intervals, strict=False)
    }
    overs = zip(pairs, to_others, intervals[len(rows) :], strict=True)
    for (row, other), difference, (ndcg, entropy) in overs:
        gains[row.label].over[other.label] = Over(other, ndcg, entropy, difference.seeds)

    in_ndcg = [difference.of(metrics=[_NDCG]) for difference in to_base]
    # The reference row's value is the mean over all its seeds, shared or not.
    base_U = np.mean(list(per_user.values[base.label].values()), 0)[:, _NDCG]
    newcomers = _gains_of_users("users with a new interest", people.newcomer_U, in_ndcg, base_U)
    for row, gain in zip(rows, newcomers, strict=False):
        gains[row.label].newcomers = gain

    for prior, groups in people.groups.items():
        for group, in_group_U in groups.items():
            group_gains = _gains_of_users(group, in_group_U, in_ndcg, base_U)
            # The list is empty if the group is too small, else it has a gain for each row.
            for row, gain in zip(rows, group_gains, strict=False):
                gains[row.label].user_groups.setdefault(prior, []).append(gain)

    _add_item_groups(gains, rows, base, per_user)
    return gains


def _add_item_groups(
    gains: Mapping[str, Gains], rows: Sequence[Row], base: Row, per_user: PerUser
) -> None:
    """Adds the gains in each group of items, over the users who have targets in the group."""
    base_UG = np.mean(list(per_user.groups[base.label].values()), 0)
    differences = [_difference(per_user.groups, row, base) for row in rows]
    for number, group in enumerate(per_user.category.groups):
        in_group = [difference.of(metrics=[number]) for difference in differences]
        has_target_U = ~np.isnan(base_UG[:, number])
        group_gains = _gains_of_users(group, has_target_U, in_group, base_UG[:, number])
        for row, gain in zip(rows, group_gains, strict=False):
            gains[row.label].item_groups.append(gain)


def _difference(values: Mapping[str, Mapping[int, np.ndarray]], row: Row, other: Row) -> Difference:
    """Returns the difference `row` minus `other`."""
    return Difference.between(values[row.label], values[other.label])


def _compared_with(section: Section, row: Row, per_user: PerUser) -> list[Row]:
    """Returns the rows that a row is compared with in `Gains.over`."""
    others: list[Row] = []
    if row.variant.ours:
        others = [
            other for other in section.rows if not other.variant.kinds or other.variant.control
        ]
    elif row.variant.kinds and row.variant.adjusted:
        # The model before the re-ranking is another evaluation of the same runs.
        runs = {result.run.path for result in row.results}
        others = [
            other
            for other in section.rows
            if other.variant.ours and runs <= {result.run.path for result in other.results}
        ]

    return [other for other in others if other is not row and other.label in per_user.values]


def _gains_of_users(
    name: str, chosen_U: np.ndarray, differences: Sequence[Difference], base_U: np.ndarray
) -> list[Gain]:
    """Computes the gains of some users.

    Args:
        name: the name of these users.
        differences: one for each row, each in a single metric.
        base_U: the reference row's values.

    Returns:
        a gain for each difference; empty if the users are too few.
    """
    users = int(chosen_U.sum())
    if users < SMALLEST:
        return []
    of_users = [difference.of(users=chosen_U) for difference in differences]
    draws = min(_RESAMPLES_OF_A_GROUP, resamples(users, _DRAWS_OF_A_GROUP))
    before = float(base_U[chosen_U].mean())
    intervals = intervals_of(of_users, draws)
    return [Gain(name, users, before, interval) for (interval,) in intervals]
