"""A prior that is to be added to a prepared data set: the groups, and who is in which."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa


@dataclass(frozen=True)
class Grouping:
    """Groups of items or users.

    Attributes:
        kind: `graph` (communities of items), `user` or `item`.
        groups: names, by group number: by size, then by smallest original id.
        sizes: members of each group.
        table: `item` or `user_id`, and `group` (int32), sorted.
        made_by: the settings, as the manifest keeps them.
        said: lines for people about how the groups came about.
    """

    kind: Literal["graph", "user", "item"]
    groups: list[str]
    sizes: list[int]
    table: pa.Table
    made_by: dict[str, Any]
    said: list[str] = field(default_factory=list)
