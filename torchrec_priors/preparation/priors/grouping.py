"""A prior before it is added to a prepared data set: its groups and their members."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa


@dataclass(frozen=True)
class Grouping:
    """Groups of items or users.

    Attributes:
        kind: `graph` (communities of items), `user` or `item`.
        groups: Names by group number. Groups are numbered by size, then by smallest original id.
        sizes: Number of members of each group.
        table: Columns `item` or `user_id`, and `group` (int32), sorted.
        made_by: Settings, as the manifest keeps them.
        messages: Lines for the user that describe how the groups were computed.
    """

    kind: Literal["graph", "user", "item"]
    groups: list[str]
    sizes: list[int]
    table: pa.Table
    made_by: dict[str, Any]
    messages: list[str] = field(default_factory=list)
