"""The rows of synthetic histories: whose they are, the sessions they are in, and their times.

Shapes: U users, S sessions and R rows of all users, one user after another.
"""

import numpy as np

from torchrec_priors.synthetic.randomness import Stream, uniform

# Times in ms.
_DAY = 86_400_000
_EPOCH = 1_683_000_000_000  # 2 May 2023
_SPAN = 60  # the number of days over which users' first interactions are spread
_WITHIN = 40_000.0  # mean gap within a session
_BETWEEN = 1.5 * _DAY  # mean gap between sessions


class Rows:
    """The user, step and session of each row; a row is an interaction.

    Attributes:
        keys: The random key of each user, [U].
        lengths: The number of rows of each user, [U].
        start: The first row of each user, [U].
        user: The index of each row's user, [R].
        key: The random key of each row's user, [R].
        step: The number of each row among the rows of its user, from 0, [R].
        opens: Whether a session begins at the row, [R].
        session: The number of each row's session, counted over all users, [R].
        opening: The row at which each session begins, [S].

    Args:
        keys: The random key of each user.
        lengths: The number of rows of each user.
        session_length: The number of rows in a session, on average.
    """

    def __init__(self, keys: np.ndarray, lengths: np.ndarray, session_length: float) -> None:
        self.keys = keys
        self.lengths = lengths
        self.start = np.cumsum(lengths) - lengths
        self.user = np.repeat(np.arange(len(keys)), lengths)
        self.key = keys[self.user]
        self.step = np.arange(len(self.user)) - self.start[self.user]

        self.opens = (self.uniform(Stream.session_start) < 1 / session_length) | (self.step == 0)
        self.session = np.cumsum(self.opens) - 1
        self.opening = np.flatnonzero(self.opens)

    def uniform(self, stream: Stream) -> np.ndarray:
        """Returns a number in [0, 1) for each row."""
        return uniform(self.key, stream, self.step)


def times(rows: Rows) -> np.ndarray:
    """Returns the time of each row in ms; the gaps between rows have exponential distributions."""
    mean = np.where(rows.opens, _BETWEEN, _WITHIN)
    gap = 1 + (-np.log1p(-rows.uniform(Stream.gap)) * mean).astype(np.int64)
    gap[rows.start] = 0
    since = np.cumsum(gap)

    # `since` is summed over all users, so its value at the user's first row is subtracted.
    first = _EPOCH + (uniform(rows.keys, Stream.first_time) * _SPAN * _DAY).astype(np.int64)
    time: np.ndarray = since + (first - since[rows.start])[rows.user]
    return time
