"""Numbers that users give: read strictly, and rejected in one line if they are too large."""

import re

from torchrec_priors.errors import UserError

# The most of a number for which no smaller limit is natural.
MOST = 10**12
# The most groups of a made-up prior.
MOST_GROUPS = 1 << 16

# Numbers of that many digits fit into 64 bits.
_DIGITS = 18


def whole_number(text: str) -> int | None:
    """The number that ASCII digits write, None for any other text.

    A number beyond 64 bits becomes 10^18.

    >>> whole_number("007"), whole_number("-1"), whole_number("²")
    (7, None, None)
    >>> whole_number("9" * 5000) == 10**18
    True
    """
    if not re.fullmatch(r"[0-9]+", text):
        return None
    # Python raises an error for texts of more than 4,300 digits, so `int` must not get them.
    digits = text.lstrip("0") or "0"
    if len(digits) > _DIGITS:
        return 10**_DIGITS
    return int(digits)


def check_most(name: str, value: float, most: int = MOST) -> None:
    """Raises UserError if a setting or an option is larger than is sensible.

    Args:
        name: as the user writes it: "model.context", "--seed".
    """
    if value > most:
        raise UserError(f"{name} = {shortened(f'{value:,}')} must be at most {most:,}")


def shortened(text: str, most: int = 80) -> str:
    """A text without its middle if it is longer than a message can show.

    >>> shortened("a" * 100, 20)
    'aaaaaaaaaa...aaaaa'
    """
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}...{text[len(text) - most // 4 :]}"
