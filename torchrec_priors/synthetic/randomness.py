"""Counter-based random numbers.

A draw is a function of seed, user, stream and counter, and does not depend on earlier draws. So a
user's rows do not depend on other users or on the order of users. The mixing function is that of
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

from enum import IntEnum

import numpy as np

from torchrec_priors.common.splitmix import GOLDEN, mix, of_numbers, unit

_STREAM_BITS = np.uint64(40)  # counters of a stream are below 2^40


class Stream(IntEnum):
    """The streams of random numbers; each kind of draw has its own stream.

    The numbers must not change: with other numbers, the same seed would give a different log.
    """

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
    # Of mixed histories only.
    source = 24
    interest_top = 25
    interest_logit = 26
    interest_angle = 27
    interest_period = 28
    interest_phase = 29
    interest_choice = 30
    topic = 31
    topic_share = 32
    topic_choice = 33
    community = 34
    community_share = 35
    community_choice = 36


def user_keys(seed: int, users: np.ndarray) -> np.ndarray:
    """Returns the uint64 key of each user."""
    root = of_numbers(np.array([seed], np.uint64))
    return mix(root ^ mix(users.astype(np.uint64) + GOLDEN))


def uniform(keys: np.ndarray, stream: Stream, counter: np.ndarray | int = 0) -> np.ndarray:
    """Returns a number in [0, 1) for each key and counter.

    Example:
        >>> keys = user_keys(0, np.arange(100_000))
        >>> round(float(uniform(keys, Stream.item, 7).mean()), 2)
        0.5
    """
    # The upper bits are the number of the stream plus 1, so index 0 is never used.
    numbers = np.atleast_1d(counter).astype(np.uint64)
    index = (np.uint64(int(stream) + 1) << _STREAM_BITS) + numbers
    return unit(mix(keys + index * GOLDEN))


def counter_of(major: np.ndarray, minor: np.ndarray | int) -> np.ndarray:
    """Combines two small numbers into one counter; `minor` is below 1024."""
    counter: np.ndarray = major * 1024 + minor
    return counter
