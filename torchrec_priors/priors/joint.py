"""The paths that compete in one softmax if `loss.softmax = "joint"`.

A tree of item priors and user priors divides its paths into groups: the paths of a group go through
the same groups of users, and through different groups of items. No item may be in two item sets of
a group. So each item has one score for a user, and the scores of all items have one softmax.

For example, ["region", "section"] has a group for each region, and its paths are the sections.

Shapes: K paths.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.errors import UserError
from torchrec_priors.priors.prior import is_of_users
from torchrec_priors.priors.tree import PriorTree


@dataclass(frozen=True)
class JointPaths:
    """The groups of paths that compete in one softmax.

    Attributes:
        group_K: the group of each path.
        paths: for each group, its paths, ascending. So are their item sets.
    """

    group_K: list[int]
    paths: list[list[int]]

    @classmethod
    def of(cls, tree: PriorTree) -> "JointPaths":
        """Divides the paths of a tree.

        Raises:
            UserError: a level is neither of items nor of users, levels are side by side, or an item
                is in several item sets of a group.
        """
        if len(tree.branches) > 1:
            raise UserError(
                "loss.softmax=joint: with priors.composition=additive, each item has a score for "
                "every level: use composition=hierarchical, or a tree of one level"
            )
        of_users = [number for number, level in enumerate(tree.levels) if is_of_users(level)]
        for number, level in enumerate(tree.levels):
            if number not in of_users and not level.restricts_items:
                raise UserError(
                    f"loss.softmax=joint: '{level.name}' is neither a prior of items nor one of "
                    "users: remove it from priors.tree, or use loss.softmax=in_group"
                )

        keys = np.zeros((len(tree.item_set_K), 0), np.int64)
        if of_users:
            keys = np.stack([tree.groups_at(number).numpy() for number in of_users], 1)
        _, group_K = np.unique(keys, axis=0, return_inverse=True)
        group_K = group_K.reshape(-1)

        paths = [np.flatnonzero(group_K == one).tolist() for one in range(group_K.max() + 1)]
        _check_disjoint(tree, paths)
        return cls(group_K.tolist(), paths)


def _check_disjoint(tree: PriorTree, paths: list[list[int]]) -> None:
    """Raises UserError if an item is in several item sets of a group."""
    rows_S = tree.eligible(0, tree.items)
    for sets in {tuple(tree.item_set_K[path] for path in group) for group in paths}:
        count_I = np.zeros(tree.items, np.int64)
        for item_set in sets:
            count_I[rows_S[item_set]] += 1
        several = int((count_I > 1).sum())
        if several:
            raise UserError(
                f"loss.softmax=joint: {several:,} items are in several groups of priors.tree, so "
                "they have several scores: use a prior that gives each item one group, such as one "
                "of `prior graph`, or loss.softmax=in_group"
            )
