"""Defines the groups and members of a prior that is to be added to a prepared data set."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa


@dataclass(frozen=True)
class Grouping:
    """Groups of items or users.

    Attributes:
        kind: `graph` (communities of items), `user` or `item`.
        groups: the names of the groups, by group number. Groups are numbered by size, and equally
            large groups by their smallest original id.
        sizes: the number of members of each group.
        table: a sorted table of `item` or `user_id`, and `group` (int32).
        made_by: the settings of the prior for the manifest.
        messages: lines for the user that describe how the groups were computed.
    """

    kind: Literal["graph", "user", "item"]
    groups: list[str]
    sizes: list[int]
    table: pa.Table
    made_by: dict[str, Any]
    messages: list[str] = field(default_factory=list)
