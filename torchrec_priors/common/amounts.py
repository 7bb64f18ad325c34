"""Reads and writes amounts of memory or disk space, such as "1.5GB"."""

import re

from torchrec_priors.common.limits import shortened
from torchrec_priors.common.machine import total_memory
from torchrec_priors.errors import UserError

_UNITS = {
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_MOST = 10**18
# The smallest amount of memory, in bytes, with which a process can work.
_LEAST = 10**7


def in_bytes(amount: str, option: str = "--memory") -> int:
    """Returns the number of bytes that a text represents.

    Args:
        amount: the text.
        option: the option that has this value, for messages.

    Raises:
        UserError: the text is not an amount, or the amount is too small or too large.

    >>> in_bytes("1.5GB"), in_bytes("512 MiB")
    (1500000000, 536870912)
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([kmgt]i?b)", amount.strip().lower())
    if match is None or float(match[1]) == 0:
        raise UserError(f"{option}: '{shortened(amount)}' is not an amount: write 2GB or 512MB")

    number = float(match[1]) * _UNITS[match[2]]
    if not 1 <= number <= _MOST:
        raise UserError(
            f"{option}: '{shortened(amount)}' must be between 1 byte and {_MOST // 10**12:,}TB"
        )
    return int(number)


def as_text(number: float) -> str:
    """Returns a number of bytes as text, in GB, or in MB if it is less than 0.1 GB.

    >>> as_text(1_500_000_000), as_text(25_200_000_000_000), as_text(3_200_000)
    ('1.5GB', '25,200GB', '3.2MB')
    """
    unit, size = ("GB", 10**9) if number >= 10**8 else ("MB", 10**6)
    digits = 0 if number >= 100 * size else 1
    return f"{number / size:,.{digits}f}{unit}"


def memory_of_process(amount: str, option: str = "--memory") -> int:
    """Returns the number of bytes that the user allows a process on this machine to use.

    Args:
        amount: the text that the user gave.
        option: the option that has this value, for messages.

    Raises:
        UserError: the text is not an amount, or the amount is too small to work with or larger than
            the memory of this machine.
    """
    wanted = in_bytes(amount, option)

    total = total_memory()
    if wanted > total:
        raise UserError(
            f"{option}: '{shortened(amount)}' is more than the {as_text(total)} here: give less"
        )
    if wanted < _LEAST:
        raise UserError(
            f"{option}: '{shortened(amount)}' is too little to work with: "
            f"give {_LEAST // 10**6}MB or more"
        )
    return wanted
