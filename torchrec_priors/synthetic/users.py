"""Lengths of synthetic histories, and users in chunks.

With chunks of users, memory does not grow with the log.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from torchrec_priors.synthetic.randomness import Stream, uniform, user_keys


@dataclass(frozen=True)
class Lengths:
    """The distribution of the number of interactions of a user: log-normal, clipped at both ends.

    Attributes:
        median: Median of the log-normal distribution.
        spread: Standard deviation of its logarithm.
        shortest, longest: Bounds.
    """

    median: float
    spread: float
    shortest: int
    longest: int

    def of(self, seed: int, users: np.ndarray) -> np.ndarray:
        """Returns the number of interactions of each user."""
        keys = user_keys(seed, users)

        # Box and Muller's transform of two uniform numbers.
        radius = np.sqrt(-2 * np.log1p(-uniform(keys, Stream.length)))
        normal = radius * np.cos(2 * np.pi * uniform(keys, Stream.length_angle))
        drawn = np.exp(np.log(self.median) + self.spread * normal)
        return np.clip(drawn, self.shortest, self.longest).astype(np.int64)


def chunks(
    rows: int, seed: int, lengths_of: Lengths, users_at_once: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (numbers, lengths) of users whose lengths sum up to `rows`.

    The history of the last user is cut to fit.
    """
    first = 1
    left = rows
    while left > 0:
        numbers = np.arange(first, first + users_at_once)
        lengths = lengths_of.of(seed, numbers)

        # Users of the chunk that begin before the log is full.
        before = np.cumsum(lengths) - lengths
        taken = before < left
        numbers = numbers[taken]
        lengths = np.minimum(lengths, left - before)[taken]
        yield numbers, lengths

        first = first + users_at_once
        left = left - int(lengths.sum())


def within(time: np.ndarray, lengths: np.ndarray, until: int) -> np.ndarray:
    """Returns the times of users' histories, one after another, all before `until`.

    A history that would pass `until` is sped up from its first time on.
    """
    start = np.cumsum(lengths) - lengths
    first = time[start]
    last = time[start + lengths - 1]
    pace = np.minimum(1.0, (until - 1 - first) / np.maximum(last - first, 1))
    origin = np.repeat(first, lengths)
    faster: np.ndarray = origin + ((time - origin) * np.repeat(pace, lengths)).astype(np.int64)
    return faster


def pauses(time: np.ndarray, lengths: np.ndarray, longer_than: int) -> np.ndarray:
    """Returns for each interaction the number of its run, from 0 for each user.

    A run has no pause that is longer than `longer_than`.
    """
    begins = np.ones(len(time), bool)
    begins[1:] = np.diff(time) > longer_than

    # Every user's history begins a run, whatever the last time of the user before.
    start = np.cumsum(lengths) - lengths
    begins[start] = True
    run = np.cumsum(begins)
    number: np.ndarray = run - np.repeat(run[start], lengths)
    return number
