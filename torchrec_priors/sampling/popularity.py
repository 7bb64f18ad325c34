"""Draw weights of items. They are integers, so their sums are exact in any order.

Therefore all ranks compute the same sums.
"""

import numpy as np

_LARGEST_SUM_BITS = 62


def draw_weights(frequency: np.ndarray, popularity: float) -> np.ndarray:
    """Returns int64 weights proportional to (frequency + 1) ^ popularity, rounded and at least 1.

    The most frequent item has the weight 2^(62 - bits of the number of items), so the sum over any
    set is below 2^62. The ratio of weights is therefore limited: with a million items, no item is
    more than 2^42 times less likely than the most frequent one. If `popularity` is 0, every weight
    is 1.

    Args:
        frequency: number of training interactions of every item of the catalogue.
        popularity: exponent alpha.

    Example:
        >>> weights = draw_weights(np.array([3, 0, 1]), 2.0)
        >>> (weights / weights[1]).tolist()
        [16.0, 1.0, 4.0]
    """
    if popularity == 0 or not len(frequency):
        return np.ones(len(frequency), np.int64)

    # Frequencies are first divided by the largest one: powers of large numbers would overflow.
    relative = ((frequency + 1.0) / (frequency.max() + 1.0)) ** popularity
    scale = 2.0 ** (_LARGEST_SUM_BITS - len(frequency).bit_length())
    return np.maximum(np.rint(relative * scale), 1).astype(np.int64)
