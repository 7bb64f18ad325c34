"""The ids that items have in a managed table, and the block of each id."""

import numpy as np

RANGE = 1 << 40  # ids are in [0, RANGE)
_FACTOR = 0x9E3779B97F4A7C15 % RANGE  # odd: multiplying by it is a permutation of the range
_INVERSE_FACTOR = pow(_FACTOR, -1, RANGE)


def spread(item: np.ndarray) -> np.ndarray:
    """Returns a different id in [0, 2^40) for every row id, int64.

    Consecutive row ids get ids that are far apart, so that they are in different blocks.

    >>> unspread(spread(np.array([0, 1, 2_000_000_000]))).tolist()
    [0, 1, 2000000000]
    """
    return _times(item, _FACTOR)


def unspread(raw: np.ndarray) -> np.ndarray:
    """Returns the row ids from which `spread` computed these ids."""
    return _times(raw, _INVERSE_FACTOR)


def ids_per_block(blocks: int) -> int:
    """Returns the number of ids in a block.

    The last block may reach beyond the range, where there are no ids.

    Args:
        blocks: the number of blocks of the table.
    """
    return -(-RANGE // blocks)


def _times(values: np.ndarray, factor: int) -> np.ndarray:
    """Returns products modulo 2^40. Overflow does no harm, because 2^40 divides 2^64."""
    product: np.ndarray = values.astype(np.uint64) * np.uint64(factor) % np.uint64(RANGE)
    return product.astype(np.int64)
