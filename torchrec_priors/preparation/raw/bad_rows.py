"""What happens to a row of a raw file that cannot be read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from torchrec_priors.errors import UserError


@dataclass
class BadRows:
    """The policy for rows that cannot be read, and the number of rows that were dropped.

    Attributes:
        policy: `refuse` raises at the first invalid row; `drop` leaves it out and counts it.
        dropped: reason -> number of rows.
        remedy: what the user can do about an invalid row, for messages.
    """

    policy: Literal["refuse", "drop"] = "refuse"
    dropped: dict[str, int] = field(default_factory=dict)
    remedy: str = "--on-bad-row drop leaves such rows out"

    def handle(self, file: Path, lines: pa.Array, reason: str, example: str) -> None:
        """Rejects or counts some rows of a file.

        Args:
            lines: line numbers of the rows, 1-based.
            example: what is wrong with the first of them.
        """
        if len(lines) == 0:
            return
        self.handle_many(
            f"{file}, line {lines[0].as_py()}", example, f"{file.name}: {reason}", len(lines)
        )

    def handle_many(self, first: str, example: str, account: str, rows: int) -> None:
        """Rejects or counts `rows` rows.

        Args:
            first: where the first of them is, for a message.
            example: what is wrong with it.
            account: files and reason, under which the rows are counted.

        Raises:
            UserError: the policy is `refuse`.
        """
        if self.policy == "refuse":
            raise UserError(f"{first}: {example} ({self.remedy})")
        self.count(account, rows)

    def count(self, account: str, rows: int) -> None:
        """Counts dropped rows, whatever the policy."""
        self.dropped[account] = self.dropped.get(account, 0) + rows
