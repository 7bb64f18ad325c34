"""Means over seeds, and intervals of differences of models, for other users and seeds.

A difference d_su of seed s and user u is mu + a_s + b_u + e_su: what all have, what a training
gives to all users, what models differ in for a user, and the rest. Its mean over S seeds and U
users varies by

    var(a) / S + var(b) / U + var(e) / (S U)

Users are many: they are drawn with replacement, which accounts for the last two terms. Seeds are
few, and drawing three of three again gives too narrow an interval (three equal ones are 1 of 9
draws, and the spread is too small by (S - 1) / S): their part is drawn from Student's t of S - 1
degrees of freedom instead, times sqrt(var(a) / S), by an estimate from the same numbers

    var(a) = max(0, variance of the seeds' means - var(e) / U)

Shapes: S seeds, U users, M metrics, R resamples, D differences (of cells and metrics).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95
_AT_ONCE = 1 << 24  # users drawn at a time, for memory
_T_DRAWS = 1 << 18


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedsPart:
    """How much a mean varies with the seeds, in addition to how much it varies with the users.

    Attributes:
        error_M: standard error, sqrt(var(a) / S).
        freedom: S - 1.
    """

    error_M: np.ndarray
    freedom: int


@dataclass(frozen=True)
class Difference:
    """What users have with one model more than with another, seed by seed.

    Attributes:
        sides: [S, U, M]: the differences of the seeds that both have. If they share none, the
            values of the one model and the negative values of the other, each of its own seeds.
        seeds: of the one and of the other.
    """

    sides: tuple[np.ndarray, ...]
    seeds: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def between(
        cls, ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray]
    ) -> "Difference":
        """The difference between two models.

        Args:
            ours, theirs: float64 [U, M] of each seed, the same users.
        """
        our_seeds = tuple(sorted(ours))
        their_seeds = tuple(sorted(theirs))
        shared = tuple(seed for seed in our_seeds if seed in theirs)
        if shared:
            paired_SUM = np.stack([ours[seed] - theirs[seed] for seed in shared])
            return cls((paired_SUM,), (shared, shared))

        our_SUM = np.stack([ours[seed] for seed in our_seeds])
        their_SUM = -np.stack([theirs[seed] for seed in their_seeds])
        return cls((our_SUM, their_SUM), (our_seeds, their_seeds))

    def of(
        self, users: np.ndarray | slice = slice(None), metrics: Sequence[int] | slice = slice(None)
    ) -> "Difference":
        """The difference of some users and metrics."""
        return Difference(tuple(side[:, users][:, :, metrics] for side in self.sides), self.seeds)

    @property
    def of_one_seed(self) -> bool:
        """Whether a side has one seed only, so that the chance of another training is unknown."""
        return min(map(len, self.seeds)) == 1

    @cached_property
    def mean_UM(self) -> np.ndarray:
        """Mean over seeds."""
        return np.sum([side.mean(0) for side in self.sides], 0)

    @property
    def parts(self) -> list[SeedsPart]:
        """The seeds' part of each side that has several seeds."""
        return [_seeds_part(side) for side in self.sides if len(side) > 1]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1); None for the latter if there is one value only.

    >>> mean_and_deviation([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    return mean, float(np.std(values, ddof=1))


def intervals_of(
    differences: Sequence[Difference], resamples: int = RESAMPLES, seed: int = SEED
) -> list[list[Interval]]:
    """The mean of each difference over users and seeds with its interval, for each metric.

    Users and seeds are drawn the same for all differences. The interval of a difference of one seed
    is for other users of the same trainings.

    Args:
        differences: of the same users.
        seed: of the draws.
    """
    mean_UD = np.concatenate([difference.mean_UM for difference in differences], 1)
    mean_RD = _users_drawn(mean_UD, resamples, seed)

    # The seeds' part of each difference is added to its columns.
    first = 0
    for difference in differences:
        last = first + difference.mean_UM.shape[1]
        for number, part in enumerate(difference.parts):
            draws_R = _t_draws(part.freedom, resamples, seed + number)
            mean_RD[:, first:last] += draws_R[:, None] * part.error_M
        first = last

    low_D, high_D = np.quantile(mean_RD, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    bounds = zip(mean_UD.mean(0), low_D, high_D, strict=True)
    intervals = [Interval(float(mean), float(low), float(high)) for mean, low, high in bounds]

    by_difference = []
    for difference in differences:
        metrics = difference.mean_UM.shape[1]
        by_difference.append(intervals[:metrics])
        intervals = intervals[metrics:]
    return by_difference


def _users_drawn(mean_UD: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """[R, D] means over users drawn with replacement, one draw after another from one generator."""
    users = len(mean_UD)
    random = np.random.default_rng(seed)
    mean_RD = np.empty((resamples, mean_UD.shape[1]))
    # The draws of all steps come from one generator: their number changes no result.
    step = max(1, _AT_ONCE // users)
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        # Each resample has its own range of numbers, so one bincount serves all of them.
        drawn_RU = random.integers(0, users, (count, users)) + users * np.arange(count)[:, None]
        times_RU = np.bincount(drawn_RU.ravel(), minlength=count * users).reshape(count, users)
        mean_RD[first : first + count] = times_RU @ mean_UD / users
    return mean_RD


def _seeds_part(value_SUM: np.ndarray) -> SeedsPart:
    """Estimates var(a) / S of one side."""
    seeds, users, _ = value_SUM.shape
    mean_SM = value_SUM.mean(1)
    spread_M = mean_SM.var(0, ddof=1)
    # Of one user, the rest cannot be separated from the seeds.
    if users > 1:
        # var(e) is what remains of each value without its seed's and its user's mean.
        rest_SUM = value_SUM - mean_SM[:, None] - value_SUM.mean(0) + mean_SM.mean(0)
        spread_M = spread_M - np.square(rest_SUM).sum((0, 1)) / ((seeds - 1) * (users - 1)) / users
    # An estimated variance may be negative.
    return SeedsPart(np.sqrt(np.clip(spread_M, 0, None) / seeds), seeds - 1)


@lru_cache(maxsize=64)
def _t_draws(freedom: int, resamples: int, seed: int) -> np.ndarray:
    """[R] draws of Student's t, stratified and symmetric, in random order."""
    random = np.random.default_rng([seed, freedom])
    ordered_R = np.quantile(
        random.standard_t(freedom, _T_DRAWS), (np.arange(resamples) + 0.5) / resamples
    )
    # Symmetric, so the draws have mean 0 and do not move a difference.
    return random.permutation((ordered_R - ordered_R[::-1]) / 2)
