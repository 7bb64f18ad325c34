"""Numbers as people give them: read without surprises, refused in one line where they are too large."""

import re

from torchrec_priors.errors import UserError

MOST = 10**12  # of a number for which nothing smaller is natural
MOST_GROUPS = 1 << 16  # of a prior that is made up

_DIGITS = 18  # of a 64-bit integer


def whole_number(text: str) -> int | None:
    """The number that ASCII digits write, None for any other text. One that is beyond 64 bits is given as 10^18.

    >>> whole_number("007"), whole_number("-1"), whole_number("²"), whole_number("9" * 5000) == 10**18
    (7, None, None, True)
    """
    if not re.fullmatch(r"[0-9]+", text):
        return None
    digits = text.lstrip("0") or "0"
    return 10**_DIGITS if len(digits) > _DIGITS else int(digits)


def check_most(name: str, value: float, most: int = MOST) -> None:
    """Raises UserError where a setting or an option is larger than it can sensibly be.

    Args:
        name: as the user writes it: "model.context", "--seed".
    """
    if value > most:
        raise UserError(f"{name} = {shortened(f'{value:,}')} must be at most {most:,}")


def shortened(text: str, most: int = 80) -> str:
    """A text without its middle where it is longer than a message can show.

    >>> shortened("a" * 100, 20)
    'aaaaaaaaaa...aaaaa'
    """
    return text if len(text) <= most else f"{text[: most // 2]}...{text[len(text) - most // 4 :]}"
