"""Means over seeds, and what a difference between two models is worth: a paired bootstrap over users.

Shapes: U users, R resamples, D differences (of cells and metrics).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95
_AT_ONCE = 1 << 24  # users drawn at a time, for memory


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1); None for the latter where there is one value alone.

    >>> mean_and_deviation([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_bootstrap(difference_UD: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> list[Interval]:
    """Mean over users of each difference with its percentile interval: users are drawn with replacement, each draw the
    same for all differences.

    Args:
        difference_UD: what each user has more with a model than with the other, both values averaged over seeds.
        seed: of the draws, one after another from one generator.
    """
    users = len(difference_UD)
    random = np.random.default_rng(seed)
    mean_RD = np.empty((resamples, difference_UD.shape[1]))
    step = max(1, _AT_ONCE // users)
    for first in range(0, resamples, step):
        some = min(step, resamples - first)
        drawn = random.integers(0, users, (some, users)) + users * np.arange(some)[:, None]
        times_RU = np.bincount(drawn.ravel(), minlength=some * users).reshape(some, users)
        mean_RD[first : first + some] = times_RU @ difference_UD / users
    low_D, high_D = np.quantile(mean_RD, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    bounds = zip(difference_UD.mean(0), low_D, high_D, strict=True)
    return [Interval(float(mean), float(low), float(high)) for mean, low, high in bounds]
