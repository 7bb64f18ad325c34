"""Reads and writes numbers of items, ranks and bytes in the form that users write."""

import math
import re

from torchrec_priors.common.limits import shortened
from torchrec_priors.errors import UserError

MOST_COUNT = 10**18
MOST_COUNTS = 100  # numbers of items or ranks in a sweep

# 10^9 may be written b (billion) or g (giga).
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}


def read_count(text: str, option: str) -> int:
    """Reads a number of at least 1.

    Args:
        text: the number, such as `1.26M`.
        option: the option with this text, for error messages.

    Raises:
        UserError: the text is not a number, or the number is out of range.

    Example:
        >>> [read_count(text, "--items") for text in ("1.26M", "10B", "64")]
        [1260000, 10000000000, 64]
    """
    match = re.fullmatch(
        r"([0-9][0-9_]*(?:\.[0-9]+)?(?:e[0-9]{1,2})?) *([kmbgt]?)", text.strip().lower()
    )
    number = 0.0
    if match:
        number = float(match[1].replace("_", "")) * _UNITS[match[2]]

    if number < 1 or (math.isfinite(number) and number != round(number)):
        raise UserError(
            f"{option}: '{shortened(text)}' is not a number of at least 1: "
            "write 1255665, 1.26M or 10B"
        )
    if number > MOST_COUNT:
        raise UserError(
            f"{option}: '{shortened(text)}' is more than {MOST_COUNT:.0e}, the most that can be "
            "planned"
        )
    return int(number)


def read_counts(text: str, option: str) -> list[int]:
    """Reads numbers that are separated by commas; returns each once, in ascending order.

    >>> read_counts("8,64,16", "--ranks")
    [8, 16, 64]

    Raises:
        UserError: a part is not a number, or there are too many parts.
    """
    parts = text.split(",", MOST_COUNTS)
    if len(parts) > MOST_COUNTS:
        raise UserError(f"{option}: more than {MOST_COUNTS} numbers: give fewer")
    return sorted({read_count(part, option) for part in parts})


def short(number: int) -> str:
    """Writes a number with at most four digits.

    >>> short(1_255_665), short(10_000_000_000), short(64)
    ('1.256M', '10B', '64')
    """
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return str(number)


def in_ms(seconds: float) -> str:
    """Writes a duration in milliseconds, with about three digits.

    >>> in_ms(0.0010956), in_ms(1.8134)
    ('1.10 ms', '1,813 ms')
    """
    decimals = 2
    if seconds >= 0.1:
        decimals = 0
    elif seconds >= 0.01:
        decimals = 1
    return f"{seconds * 1000:,.{decimals}f} ms"


def in_gb(size: float) -> str:
    """Writes a number of bytes in gigabytes.

    >>> in_gb(16_062_500_000), in_gb(1_024_000)
    ('16.06 GB', '0.001 GB')
    """
    if size >= 1e7 or size == 0:
        return f"{size / 1e9:,.2f} GB"
    return f"{size / 1e9:.3f} GB"  # two decimals would show 0.00
