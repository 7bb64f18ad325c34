"""Rejects or counts the rows of raw files that cannot be read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from torchrec_priors.errors import UserError


@dataclass
class BadRows:
    """The policy for rows that cannot be read, and the number of rows that were dropped.

    Attributes:
        policy: `refuse` raises an error for the first invalid row. `drop` leaves out invalid rows
            and counts them.
        dropped: the numbers of dropped rows, by reason.
        remedy: the last part of messages, which says what the user can do about an invalid row.
    """

    policy: Literal["refuse", "drop"] = "refuse"
    dropped: dict[str, int] = field(default_factory=dict)
    remedy: str = "--on-bad-row drop leaves such rows out"

    def handle(self, file: Path, lines: pa.Array, reason: str, example: str) -> None:
        """Rejects or counts invalid rows of a file.

        Args:
            file: the file.
            lines: the 1-based line numbers of the invalid rows.
            reason: the reason that is counted, the same for all of these rows.
            example: a description of the mistake in the first of these rows, for a message.
        """
        if len(lines) == 0:
            return
        self.handle_many(
            f"{file}, line {lines[0].as_py()}", example, f"{file.name}: {reason}", len(lines)
        )

    def handle_many(self, first: str, example: str, account: str, rows: int) -> None:
        """Rejects or counts invalid rows.

        Args:
            first: the file and position of the first invalid row, for a message.
            example: a description of the mistake in this row, for the message.
            account: the files and the reason under which the rows are counted.
            rows: the number of invalid rows.

        Raises:
            UserError: the policy is `refuse`.
        """
        if self.policy == "refuse":
            raise UserError(f"{first}: {example} ({self.remedy})")
        self.count(account, rows)

    def count(self, account: str, rows: int) -> None:
        """Counts dropped rows, even if the policy is `refuse`."""
        self.dropped[account] = self.dropped.get(account, 0) + rows
