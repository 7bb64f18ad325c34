"""Counter-based random numbers: a draw is a function of (seed, user, stream, counter), not of what was drawn before.

So a user's rows are the same whoever else is generated with them, and in whatever order. The mixing function is
SplitMix64's (Steele, Lea and Flood, OOPSLA 2014).
"""

from enum import IntEnum

import numpy as np

from torchrec_priors.common.splitmix import GOLDEN, mix, unit

_STREAM_BITS = np.uint64(40)  # counters of a stream are below 2^40


class Stream(IntEnum):
    """What a draw decides; every use has its own stream."""

    length = 0
    length_angle = 1
    spending = 2
    taste = 3
    slots = 4
    life = 5
    phase = 6
    interest_scope = 7
    interest_leaf = 8
    interest_band = 9
    interest_cell = 10
    session_start = 11
    session_kind = 12
    session_interest = 13
    session_leaf = 14
    session_drift = 15
    session_cell = 16
    event = 17
    complete = 18
    back = 19
    scope = 20
    item = 21
    gap = 22
    first_time = 23


def user_keys(seed: int, users: np.ndarray) -> np.ndarray:
    """uint64 key of each user."""
    root = mix(np.array([seed], np.uint64) * GOLDEN + GOLDEN)
    return mix(root ^ mix(users.astype(np.uint64) + GOLDEN))


def uniform(keys: np.ndarray, stream: Stream, counter: np.ndarray | int = 0) -> np.ndarray:
    """Numbers in [0, 1) of these keys at these counters.

    Example:
        >>> keys = user_keys(0, np.arange(100_000))
        >>> round(float(uniform(keys, Stream.item, 7).mean()), 2)
        0.5
    """
    place = (np.uint64(int(stream) + 1) << _STREAM_BITS) + np.atleast_1d(counter).astype(np.uint64)
    return unit(mix(keys + place * GOLDEN))
