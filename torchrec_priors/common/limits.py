"""Reads numbers that users give, and rejects numbers that are too large."""

import re

from torchrec_priors.errors import UserError

# The upper limit of numbers that have no other limit.
MOST = 10**12
# The largest number of groups of a prior that is computed, such as `random:100`.
MOST_GROUPS = 1 << 16

# Numbers with this many digits fit into 64 bits.
_DIGITS = 18

# The most runs of an experiment at a time on one machine.
MOST_AT_ONCE = 1_000

# The most groups that can have a share of a list: n groups have up to 2^n overlaps, each of which
# needs a search.
MOST_SHARES = 5


def whole_number(text: str) -> int | None:
    """Returns the number that a text of ASCII digits represents; None for any other text.

    A number of more than 18 digits becomes 10^18, so that every result fits into 64 bits.

    >>> whole_number("007"), whole_number("-1"), whole_number("²")
    (7, None, None)
    >>> whole_number("9" * 5000) == 10**18
    True
    """
    if not re.fullmatch(r"[0-9]+", text):
        return None
    # `int` raises an error for texts of more than 4,300 digits, so long texts are handled first.
    digits = text.lstrip("0") or "0"
    if len(digits) > _DIGITS:
        return 10**_DIGITS
    return int(digits)


def check_most(name: str, value: float, most: int = MOST) -> None:
    """Raises UserError if a setting or an option is larger than its limit.

    Args:
        name: the name of the setting or option for the message, such as "--seed".
        value: the value that the user gave.
        most: the limit.
    """
    if value > most:
        raise UserError(f"{name} = {shortened(f'{value:,}')} must be at most {most:,}")


def shortened(text: str, most: int = 80) -> str:
    """Returns a text that fits into a message: if it is too long, its middle is left out.

    >>> shortened("a" * 100, 20)
    'aaaaaaaaaa...aaaaa'
    """
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}...{text[len(text) - most // 4 :]}"
