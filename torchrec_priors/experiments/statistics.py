"""Means over seeds, and intervals of the differences between models.

The intervals say how much a difference would vary with other users and other seeds. The
difference d_su between two models, for seed s and user u, is

    d_su = mu + a_s + b_u + e_su

Here mu is the difference in all training runs and for all users, a_s is the effect of seed s on all
users, b_u is the effect of user u with all seeds, and e_su is the rest. The mean over S seeds and U
users has the variance

    var(a) / S + var(b) / U + var(e) / (S U)

There are many users. They are drawn with replacement, which accounts for the last two terms. There
are few seeds, and drawing them with replacement would give intervals that are too narrow: one in
nine draws from three seeds has the same seed three times, and the variance is too small by the
factor (S - 1) / S. So the part of the seeds is drawn from Student's t with S - 1 degrees of
freedom, times sqrt(var(a) / S). The estimate of var(a) comes from the same differences:

    var(a) = max(0, variance of the seeds' means - var(e) / U)

Shapes: S seeds, U users, M metrics, R resamples, D columns (one for each metric of each
difference).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95
_AT_ONCE = 1 << 24  # users drawn at a time, which limits the memory
_T_DRAWS = 1 << 18  # draws from which the quantiles of Student's t are computed


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedsPart:
    """The variation of a mean that is due to the seeds, in addition to the part of the users.

    Attributes:
        error_M: the standard error, sqrt(var(a) / S).
        freedom: the degrees of freedom, S - 1.
    """

    error_M: np.ndarray
    freedom: int


@dataclass(frozen=True)
class Difference:
    """The difference between two models in the metrics of each user, for each seed.

    Attributes:
        sides: one array [S, U, M], the differences for the seeds that both models have. If they
            share no seed, two arrays: the values of the first model, and the negative values of
            the second one, for all seeds of each.
        seeds: the seeds of the first model and those of the second one.
    """

    sides: tuple[np.ndarray, ...]
    seeds: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def between(
        cls, ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray]
    ) -> "Difference":
        """Subtracts one model from another.

        Args:
            ours, theirs: seed -> float64 [U, M], of the same users.
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
        """Returns the difference for only some users and metrics."""
        return Difference(tuple(side[:, users][:, :, metrics] for side in self.sides), self.seeds)

    @property
    def of_one_seed(self) -> bool:
        """Whether a model has only one seed, so the variation over training runs is unknown."""
        return min(map(len, self.seeds)) == 1

    @cached_property
    def mean_UM(self) -> np.ndarray:
        """The mean over seeds."""
        return np.sum([side.mean(0) for side in self.sides], 0)

    @property
    def parts(self) -> list[SeedsPart]:
        """The part of the seeds, for each side that has several seeds."""
        return [_seeds_part(side) for side in self.sides if len(side) > 1]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns mean and standard deviation (n - 1); the latter is None if there is only one value.

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
    """Computes each difference's mean over users and seeds, with its interval, for each metric.

    All differences use the same draws of users and seeds. If a difference has only one seed, its
    interval only covers other users of the same training runs.

    Args:
        differences: differences for the same users.
        seed: the seed of the draws.
    """
    mean_UD = np.concatenate([difference.mean_UM for difference in differences], 1)
    mean_RD = _users_drawn(mean_UD, resamples, seed)

    # The part of the seeds is added to the columns of each difference.
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
    """Computes means over users that are drawn with replacement, [R, D]."""
    users = len(mean_UD)
    random = np.random.default_rng(seed)
    mean_RD = np.empty((resamples, mean_UD.shape[1]))

    # All steps draw from one generator, so the size of a step does not change the result.
    step = max(1, _AT_ONCE // users)
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        # Each resample has a range of numbers for itself, so one bincount counts all of them.
        drawn_RU = random.integers(0, users, (count, users)) + users * np.arange(count)[:, None]
        times_RU = np.bincount(drawn_RU.ravel(), minlength=count * users).reshape(count, users)
        mean_RD[first : first + count] = times_RU @ mean_UD / users
    return mean_RD


def _seeds_part(value_SUM: np.ndarray) -> SeedsPart:
    """Estimates sqrt(var(a) / S) of one side."""
    seeds, users, _ = value_SUM.shape
    mean_SM = value_SUM.mean(1)
    spread_M = mean_SM.var(0, ddof=1)
    # With one user, the rest e cannot be separated from the seeds.
    if users > 1:
        # e is what remains of each value without the means of its seed and of its user.
        rest_SUM = value_SUM - mean_SM[:, None] - value_SUM.mean(0) + mean_SM.mean(0)
        spread_M = spread_M - np.square(rest_SUM).sum((0, 1)) / ((seeds - 1) * (users - 1)) / users
    # The estimate of the variance may be negative.
    return SeedsPart(np.sqrt(np.clip(spread_M, 0, None) / seeds), seeds - 1)


@lru_cache(maxsize=64)
def _t_draws(freedom: int, resamples: int, seed: int) -> np.ndarray:
    """Draws from Student's t, [R], stratified and symmetric, in random order."""
    random = np.random.default_rng([seed, freedom])
    ordered_R = np.quantile(
        random.standard_t(freedom, _T_DRAWS), (np.arange(resamples) + 0.5) / resamples
    )
    # Symmetric draws have mean 0, so they do not change the mean of a difference.
    return random.permutation((ordered_R - ordered_R[::-1]) / 2)
