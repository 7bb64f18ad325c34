"""Picks the paths of an item set that are open to each user.

If groups of users have heads, most paths are closed to a user. Scores are computed only for the
open paths, so the cost of retrieval does not grow with the number of groups of users.

Shapes: B users, K paths of the tree, p paths of one item set, d width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.priors.user import UserPrior


@dataclass(frozen=True)
class OpenPaths:
    """The paths of one item set that are open to each user.

    All users have the same number of paths here, so a user may also have some closed paths.

    Attributes:
        path_Bp: the numbers of the paths, ascending for each user.
        vector_Bpd: the queries of the paths.
        bias_Bp: added to the scores of a path; -inf for a closed path.
    """

    path_Bp: Tensor
    vector_Bpd: Tensor
    bias_Bp: Tensor


def open_paths(vector_BKd: Tensor, bias_BK: Tensor, paths: slice, most: int) -> OpenPaths:
    """Picks the paths of one item set that are open to each user.

    Args:
        vector_BKd: the queries of all paths.
        bias_BK: added to the scores of a path; -inf for a closed path.
        paths: the paths of the item set, as a slice.
        most: the largest number of open paths that a user of the data set has in the item set. As
            many paths are taken for every user, so that computations for a user hardly ever depend
            on the other users in the batch. If a user has more open paths, all paths are taken; an
            unknown user may have more.
    """
    vector_Bpd = vector_BKd[:, paths]
    bias_Bp = bias_BK[:, paths]
    column_Bp = torch.arange(bias_Bp.shape[1], device=bias_BK.device).expand(len(bias_BK), -1)
    is_open_Bp = ~torch.isneginf(bias_Bp)

    if most < bias_Bp.shape[1] and bool((is_open_Bp.sum(1) <= most).all()):
        # Each user gets the first `most` paths in an order that begins with the open ones.
        first = is_open_Bp.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        column_Bp = first.sort(1).values
        bias_Bp = bias_Bp.gather(1, column_Bp)
        vector_Bpd = vector_Bpd.gather(1, column_Bp[..., None].expand(-1, -1, vector_BKd.shape[2]))
    return OpenPaths(column_Bp + paths.start, vector_Bpd, bias_Bp)


def flops(sizes: Sequence[int], open_S: Sequence[OpenPaths]) -> float:
    """Returns the FLOPs of the products of the items of each set with the queries of its paths.

    Args:
        sizes: the number of items in each item set.
        open_S: the paths of each item set.
    """
    pairs = zip(sizes, open_S, strict=True)
    return 2.0 * sum(size * paths.vector_Bpd.numel() for size, paths in pairs)


def most_open(tree: PriorTree) -> list[int]:
    """Returns, for each item set, the largest number of paths that are open to a user.

    Only the users of the data set count: an unknown user may have more open paths.
    """
    groups_a_user = [
        level.most_groups if isinstance(level, UserPrior) else 0 for level in tree.levels
    ]

    # Of paths that differ only in groups of users, those of the user's own groups are open. Their
    # number is at most the product of the numbers of groups at these levels.
    ways: dict[tuple[int, tuple[int, ...], tuple[int, ...]], int] = {}
    for path, item_set in zip(tree.paths, tree.item_set_K, strict=True):
        pairs = zip(path.levels, path.groups, strict=True)
        others = tuple(group for level, group in pairs if not groups_a_user[level])
        ways[item_set, path.levels, others] = math.prod(
            groups_a_user[level] or 1 for level in path.levels
        )

    most = [0] * tree.item_sets
    for (item_set, _, _), number in ways.items():
        most[item_set] += number
    return most
