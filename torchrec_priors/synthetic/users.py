"""Draws the lengths of synthetic histories, and divides users into chunks.

One chunk is in memory at a time, so memory does not grow with the log.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from torchrec_priors.synthetic.randomness import Stream, uniform, user_keys


@dataclass(frozen=True)
class Lengths:
    """The distribution of the number of interactions of a user: log-normal, within bounds.

    Attributes:
        median: The median of the log-normal distribution.
        spread: The standard deviation of its logarithm.
        shortest, longest: The bounds; values outside are set to the nearest bound.
    """

    median: float
    spread: float
    shortest: int
    longest: int

    def of(self, seed: int, users: np.ndarray) -> np.ndarray:
        """Returns the number of interactions of each user."""
        keys = user_keys(seed, users)

        # The Box-Muller transform turns two uniform numbers into a normally distributed one.
        radius = np.sqrt(-2 * np.log1p(-uniform(keys, Stream.length)))
        normal = radius * np.cos(2 * np.pi * uniform(keys, Stream.length_angle))
        drawn = np.exp(np.log(self.median) + self.spread * normal)
        return np.clip(drawn, self.shortest, self.longest).astype(np.int64)


def chunks(
    rows: int, seed: int, lengths_of: Lengths, users_at_once: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the numbers of users and the lengths of their histories, in chunks.

    The sum of all lengths is `rows`; the history of the last user is cut short to reach it exactly.

    Args:
        rows: The number of interactions of all users.
        seed: The seed of all draws.
        lengths_of: The distribution of the lengths.
        users_at_once: The number of users in a chunk.
    """
    first = 1
    left = rows
    while left > 0:
        numbers = np.arange(first, first + users_at_once)
        lengths = lengths_of.of(seed, numbers)

        # Only users whose histories begin before the log has `rows` rows are taken.
        before = np.cumsum(lengths) - lengths
        taken = before < left
        numbers = numbers[taken]
        lengths = np.minimum(lengths, left - before)[taken]
        yield numbers, lengths

        first = first + users_at_once
        left = left - int(lengths.sum())


def within(time: np.ndarray, lengths: np.ndarray, until: int) -> np.ndarray:
    """Changes the times of histories so that all are before `until`.

    If the last time of a history is too late, all gaps of the history are shortened by the same
    factor. Its first time stays the same.

    Args:
        time: The times of all users, one user after another.
        lengths: The number of interactions of each user.
        until: The end, which no time may reach.
    """
    start = np.cumsum(lengths) - lengths
    first = time[start]
    last = time[start + lengths - 1]
    pace = np.minimum(1.0, (until - 1 - first) / np.maximum(last - first, 1))
    origin = np.repeat(first, lengths)
    faster: np.ndarray = origin + ((time - origin) * np.repeat(pace, lengths)).astype(np.int64)
    return faster


def pauses(time: np.ndarray, lengths: np.ndarray, longer_than: int) -> np.ndarray:
    """Divides histories into runs at the pauses that are longer than `longer_than`.

    Returns:
        The number of each interaction's run, from 0 for each user.
    """
    begins = np.ones(len(time), bool)
    begins[1:] = np.diff(time) > longer_than

    # A run also begins at the first interaction of each user.
    start = np.cumsum(lengths) - lengths
    begins[start] = True
    run = np.cumsum(begins)
    number: np.ndarray = run - np.repeat(run[start], lengths)
    return number
