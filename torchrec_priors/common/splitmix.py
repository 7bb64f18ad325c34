"""Computes random-looking numbers from arrays, by the hash function splitmix64.

The results depend only on the hashed numbers. So they are the same in any order, on any rank and on
any machine.
"""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ALL_BITS = (1 << 64) - 1


def mix(x: np.ndarray) -> np.ndarray:
    """Returns uint64 hashes of uint64 numbers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def mix_one(x: int) -> int:
    """Returns the hash of one number of any size, taken modulo 2^64: the same as `mix`."""
    x &= _ALL_BITS
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _ALL_BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _ALL_BITS
    return x ^ (x >> 31)


def of_numbers(numbers: np.ndarray) -> np.ndarray:
    """Returns uint64 hashes of whole numbers, such as row ids."""
    return mix(numbers.astype(np.uint64) * GOLDEN + GOLDEN)


def of_epoch(numbers: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Returns uint64 hashes of whole numbers, which are different for every seed and epoch."""
    key = mix(np.array([seed, epoch], np.uint64))
    return mix(mix(numbers.astype(np.uint64) * GOLDEN + key[0]) + key[1])


def unit(bits: np.ndarray) -> np.ndarray:
    """Converts hashes to numbers in [0, 1)."""
    # A double has a precision of 53 bits. So 53 bits of the hash are exact and never round up to 1.
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
