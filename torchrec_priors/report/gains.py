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

_DRAWS = 200_000_000  # users drawn in a bootstrap, for time
_DRAWS_OF_A_GROUP = 20_000_000
_FEWEST = 200  # resamples
SMALLEST = 20  # users of a group, for an interval
_OVER = [COMPARED.index("ndcg@10"), COMPARED.index("entropy@10")]


@dataclass(frozen=True)
class Gain:
    """In ndcg of some users.

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
        """1 or -1 where the whole interval lies on one side of 0, else 0."""
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
    """Of one row over the reference row.

    Attributes:
        overall: by metric.
        seeds: the row's and the reference row's on which all differences to it rest: those that both have, or
            each one's own where they share none.
        newcomers: users with a target of a category that is new to them; None where there are too few.
        user_groups: by user prior, largest group first.
        item_groups: of the category prior.
        over: of a model with priors over each row without and over each control, the reference row among them; of one
            that was re-ranked over itself before; by label.
    """

    overall: dict[str, Interval]
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    newcomers: Gain | None = None
    user_groups: dict[str, list[Gain]] = field(default_factory=dict)
    item_groups: list[Gain] = field(default_factory=list)
    over: dict[str, Over] = field(default_factory=dict)

    @property
    def of_one_seed(self) -> bool:
        return min(map(len, self.seeds)) == 1

    def groups(self) -> list[Gain]:
        return [*self.item_groups, *(gain for some in self.user_groups.values() for gain in some)]


def sign(interval: Interval) -> int:
    return int(interval.low > 0) - int(interval.high < 0)


def resamples(users: int, draws: int = _DRAWS) -> int:
    return int(np.clip(draws // max(users, 1), _FEWEST, RESAMPLES))


def gains_of(section: Section, per_user: PerUser) -> dict[str, Gains]:
    """By label, of the rows that have values of single users, as the reference row has."""
    base = section.reference
    if base.label not in per_user.values:
        return {}
    rows = [row for row in section.rows if row is not base and row.label in per_user.values]
    if not rows:
        return {}
    people = per_user.people
    pairs = [(row, other) for row in rows for other in _compared_with(section, row, per_user)]
    to_base = [_difference(per_user.values, row, base) for row in rows]
    to_others = [_difference(per_user.values, row, other).of(metrics=_OVER) for row, other in pairs]
    intervals = intervals_of([*to_base, *to_others], resamples(len(people)))
    found = {
        row.label: Gains(dict(zip(COMPARED, of_row, strict=True)), difference.seeds)
        for row, difference, of_row in zip(rows, to_base, intervals, strict=False)
    }
    over = zip(pairs, to_others, intervals[len(rows) :], strict=True)
    for (row, other), difference, (ndcg, entropy) in over:
        found[row.label].over[other.label] = Over(other, ndcg, entropy, difference.seeds)
    in_ndcg = [difference.of(metrics=[0]) for difference in to_base]
    base_U = np.mean(list(per_user.values[base.label].values()), 0)[:, 0]
    newcomers = _of_users("users with a new interest", people.newcomer_U, in_ndcg, base_U)
    for row, gain in zip(rows, newcomers, strict=False):
        found[row.label].newcomers = gain
    for prior, groups in people.groups.items():
        for group, who in groups.items():
            for row, gain in zip(rows, _of_users(group, who, in_ndcg, base_U), strict=False):
                found[row.label].user_groups.setdefault(prior, []).append(gain)
    base_UG = np.mean(list(per_user.groups[base.label].values()), 0)
    of_groups = [_difference(per_user.groups, row, base) for row in rows]
    for number, group in enumerate(per_user.category.groups):
        of_group = [difference.of(metrics=[number]) for difference in of_groups]
        who = ~np.isnan(base_UG[:, number])
        for row, gain in zip(
            rows, _of_users(group, who, of_group, base_UG[:, number]), strict=False
        ):
            found[row.label].item_groups.append(gain)
    return found


def _difference(values: Mapping[str, Mapping[int, np.ndarray]], row: Row, other: Row) -> Difference:
    """Row minus the other one."""
    return Difference.between(values[row.label], values[other.label])


def _compared_with(section: Section, row: Row, per_user: PerUser) -> list[Row]:
    """See `Gains.over`."""
    if row.variant.ours:
        some = [other for other in section.rows if not other.variant.kinds or other.variant.control]
    elif row.variant.kinds and row.variant.adjusted:
        trained = {result.run.path for result in row.results}
        some = [
            other
            for other in section.rows
            if other.variant.ours and trained <= {one.run.path for one in other.results}
        ]
    else:
        some = []
    return [other for other in some if other is not row and other.label in per_user.values]


def _of_users(
    name: str, who_U: np.ndarray, differences: Sequence[Difference], base_U: np.ndarray
) -> list[Gain]:
    """A gain for each difference in one metric; none where they are too few."""
    users = int(who_U.sum())
    if users < SMALLEST:
        return []
    some = [difference.of(users=who_U) for difference in differences]
    intervals = intervals_of(some, min(2000, resamples(users, _DRAWS_OF_A_GROUP)))
    return [Gain(name, users, float(base_U[who_U].mean()), interval) for (interval,) in intervals]
