"""What becomes of a row of a raw file that cannot be read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from torchrec_priors.errors import UserError


@dataclass
class BadRows:
    """What to do with a row that cannot be read, and the count of those dropped.

    Attributes:
        policy: `refuse` raises at the first; `drop` leaves it out and counts it.
        dropped: reason -> number of rows.
        remedy: what the user can do about a refused row, for messages.
    """

    policy: Literal["refuse", "drop"] = "refuse"
    dropped: dict[str, int] = field(default_factory=dict)
    remedy: str = "--on-bad-row drop leaves such rows out"

    def handle(self, file: Path, lines: pa.Array, reason: str, example: str) -> None:
        """Refuses, or counts, the rows on `lines` (1-based); `example` describes the first of them."""
        if len(lines) == 0:
            return
        if self.policy == "refuse":
            raise UserError(f"{file}, line {lines[0].as_py()}: {example} ({self.remedy})")
        key = f"{file.name}: {reason}"
        self.dropped[key] = self.dropped.get(key, 0) + len(lines)


def shorten(text: str) -> str:
    """A value as a message shows it."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
