"""The prior tree of an export: what its heads are called, and which of them are combined.

`described` turns the tree of a run into values for `export.json`, and `ExportedTree` reads them. It
has those parts of `PriorTree` that need neither items nor users.

Shapes: K paths, G groups of a level.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchrec_priors.priors.prior import is_of_users, kind_of
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.fusion import blocks


@dataclass(frozen=True)
class ExportedLevel:
    """A level of the tree.

    Attributes:
        name: the name of the prior.
        groups: the names of its groups.
        restricts_items: whether its groups restrict the items that a head may retrieve.
        of_users: whether its groups are groups of users.
        group_K: the index of each path's group; -1 if the path does not go through the level.
        kind, words: see `Prior`; an export of an earlier release has neither.
        length: of a temporal prior, the number of offsets in a segment; otherwise 0.
    """

    name: str
    groups: list[str]
    restricts_items: bool
    of_users: bool
    group_K: Tensor
    kind: str
    words: str
    length: int


@dataclass(frozen=True)
class ExportedPath:
    """A path of the tree; `name` is that of its head."""

    name: str


@dataclass(frozen=True)
class ExportedTree:
    """The prior tree of an export.

    Attributes:
        levels: the levels, the top one first.
        paths: the paths, in the order of their heads.
        composition: how the groups of several levels form paths.
        item_set_K: the index of each path's item set.
        branch_K: the index of each path's branch.
        block_K: the index of each path's block, for hierarchical fusion.
    """

    levels: list[ExportedLevel]
    paths: list[ExportedPath]
    composition: str
    item_set_K: list[int]
    branch_K: Tensor
    block_K: Tensor

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "ExportedTree":
        """Reads the tree from the content of `export.json`."""
        levels = [
            ExportedLevel(
                level["name"],
                level["groups"],
                level["restricts_items"],
                level["of_users"],
                torch.tensor(level["group_of_head"]),
                level.get("kind") or _kind_by_flags(level),
                level.get("words", ""),
                level.get("length", 0),
            )
            for level in about["levels"]
        ]
        return cls(
            levels,
            [ExportedPath(name) for name in about["heads"]],
            about["composition"],
            about["item_set_of_head"],
            torch.tensor(about["branch_of_head"]),
            torch.tensor(about["block_of_head"]),
        )

    @property
    def group_names(self) -> list[list[str]]:
        """The names of the groups of each level."""
        return [level.groups for level in self.levels]

    def groups_at(self, level: int) -> Tensor:
        """Returns int64 [K]: the index of each path's group at a level (see `PriorTree`)."""
        return self.levels[level].group_K

    def open_groups(self) -> Tensor:
        """Returns int64 [K]: `PathsOfUsers.open_groups` of a user of whom no group is known."""
        count_K = torch.ones(len(self.paths), dtype=torch.int64)
        for level in self.levels:
            if level.of_users:
                through_K = level.group_K >= 0
                with_head = len(level.group_K[through_K].unique())
                count_K *= torch.where(through_K, max(1, with_head), 1)
        return count_K


def described(tree: PriorTree) -> dict[str, Any]:
    """Returns what `export.json` says about a tree."""
    levels = [
        {
            "name": level.name,
            "groups": tree.group_names[number],
            "restricts_items": level.restricts_items,
            "of_users": is_of_users(level),
            "group_of_head": tree.groups_at(number).tolist(),
            "kind": kind_of(level),
            "words": getattr(level, "words", ""),
            "length": getattr(level, "length", 0),
        }
        for number, level in enumerate(tree.levels)
    ]
    return {
        "levels": levels,
        "item_set_of_head": list(tree.item_set_K),
        "branch_of_head": tree.branch_K.tolist(),
        "block_of_head": blocks(tree).tolist(),
        "composition": tree.composition,
    }


def _kind_by_flags(level: Mapping[str, Any]) -> str:
    """Returns the kind of a level of which an earlier release says only what its groups restrict.

    It is "" for a level that restricts neither users nor items, such as segments of time.
    """
    if level["of_users"]:
        return "user"
    return "item" if level["restricts_items"] else ""
