"""Stores the groups of all items in one compressed list. An item may have several groups.

The groups of item i are `groups[starts[i] : starts[i + 1]]`.
"""

import numpy as np


def compress(item: np.ndarray, group: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Compresses pairs of (item, group), which may be in any order, to (starts, groups).

    The groups of an item are sorted, and repeated pairs are stored once.

    Example:
        >>> starts, groups = compress(np.array([2, 0, 0]), np.array([1, 1, 0]), items=3)
        >>> starts.tolist(), groups.tolist()
        ([0, 2, 2, 3], [0, 1, 1])
    """
    order = np.lexsort((group, item))
    item = item[order]
    group = group[order]

    # The pairs are sorted, so equal pairs are neighbours.
    repeated = np.zeros(len(item), bool)
    repeated[1:] = (item[1:] == item[:-1]) & (group[1:] == group[:-1])
    item = item[~repeated]
    group = group[~repeated]

    starts = np.zeros(items + 1, np.int64)
    np.cumsum(np.bincount(item, minlength=items), out=starts[1:])
    return starts, group.astype(np.int64)
