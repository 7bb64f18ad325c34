"""How long made-up histories are, and users in chunks, so that memory does not grow with the log."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from torchrec_priors.synthetic.randomness import Stream, uniform, user_keys


@dataclass(frozen=True)
class Lengths:
    """Interactions of a user: log-normal, cut off at both ends.

    Attributes:
        median: of the log-normal.
        spread: standard deviation of its logarithm.
        shortest, longest: bounds.
    """

    median: float
    spread: float
    shortest: int
    longest: int

    def of(self, seed: int, users: np.ndarray) -> np.ndarray:
        """Interactions of each user."""
        keys = user_keys(seed, users)
        radius = np.sqrt(-2 * np.log1p(-uniform(keys, Stream.length)))
        normal = radius * np.cos(2 * np.pi * uniform(keys, Stream.length_angle))
        drawn = np.exp(np.log(self.median) + self.spread * normal)
        return np.clip(drawn, self.shortest, self.longest).astype(np.int64)


def chunks(
    rows: int, seed: int, lengths_of: Lengths, users_at_once: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(numbers, lengths) of users whose lengths sum up to `rows`; the last one's history is cut to fit."""
    first = 1
    left = rows
    while left > 0:
        numbers = np.arange(first, first + users_at_once)
        lengths = lengths_of.of(seed, numbers)
        before = np.cumsum(lengths) - lengths
        taken = before < left
        numbers = numbers[taken]
        lengths = np.minimum(lengths, left - before)[taken]
        yield numbers, lengths
        first = first + users_at_once
        left = left - int(lengths.sum())


def within(time: np.ndarray, lengths: np.ndarray, until: int) -> np.ndarray:
    """Times of users' histories, one after another, sped up from their first times on where they pass `until`."""
    start = np.cumsum(lengths) - lengths
    first = time[start]
    last = time[start + lengths - 1]
    pace = np.minimum(1.0, (until - 1 - first) / np.maximum(last - first, 1))
    origin = np.repeat(first, lengths)
    faster: np.ndarray = origin + ((time - origin) * np.repeat(pace, lengths)).astype(np.int64)
    return faster


def pauses(time: np.ndarray, lengths: np.ndarray, longer_than: int) -> np.ndarray:
    """Number, from 0 for each user, of the run of interactions without a longer pause that each belongs to."""
    begins = np.ones(len(time), bool)
    begins[1:] = np.diff(time) > longer_than
    start = np.cumsum(lengths) - lengths
    begins[start] = True
    run = np.cumsum(begins)
    number: np.ndarray = run - np.repeat(run[start], lengths)
    return number
