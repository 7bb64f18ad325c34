"""Amounts of memory or disk as people write them."""

import re

from torchrec_priors.errors import UserError

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def in_bytes(amount: str, option: str = "--memory") -> int:
    """Raises UserError where this is no amount; `option` is where it was given.

    >>> in_bytes("1.5GB"), in_bytes("512 MiB")
    (1500000000, 536870912)
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([kmgt]i?b)", amount.strip().lower())
    if found is None or float(found[1]) == 0:
        raise UserError(f"{option}: '{amount}' is no amount: write 2GB or 512MB")
    return int(float(found[1]) * _UNITS[found[2]])
