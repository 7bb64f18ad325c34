"""The paths of an item set that are open to each user: few, where groups of users have heads of their own.

Scores are computed for these alone, so that retrieval costs what a user's own heads cost, however many groups of users
there are.

Shapes: B users, K paths of the tree, p paths of one item set, d width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.priors.user import UserPrior


@dataclass(frozen=True)
class OpenPaths:
    """For each user some paths of one item set, ascending; all that are open to the user are among them.

    Attributes:
        path_Bp: which they are.
        vector_Bpd: their queries.
        bias_Bp: added to their scores; -inf where a path is closed all the same.
    """

    path_Bp: Tensor
    vector_Bpd: Tensor
    bias_Bp: Tensor


def open_paths(vector_BKd: Tensor, bias_BK: Tensor, paths: slice, most: int) -> OpenPaths:
    """
    Args:
        bias_BK: -inf for closed paths.
        paths: of the item set.
        most: how many of them a user of the data set has open at most. So many are taken, unless somebody has more, as
            users who are not known: what is computed for a user hardly ever depends on who else is in the batch.
    """
    vector_Bpd = vector_BKd[:, paths]
    bias_Bp = bias_BK[:, paths]
    column_Bp = torch.arange(bias_Bp.shape[1], device=bias_BK.device).expand(len(bias_BK), -1)
    is_open_Bp = ~torch.isneginf(bias_Bp)
    if most < bias_Bp.shape[1] and bool((is_open_Bp.sum(1) <= most).all()):
        first = is_open_Bp.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        column_Bp = first.sort(1).values
        bias_Bp = bias_Bp.gather(1, column_Bp)
        vector_Bpd = vector_Bpd.gather(1, column_Bp[..., None].expand(-1, -1, vector_BKd.shape[2]))
    return OpenPaths(column_Bp + paths.start, vector_Bpd, bias_Bp)


def most_open(tree: PriorTree) -> list[int]:
    """For each item set, how many of its paths a user of the data set has open at most."""
    groups_a_user = [
        level.most_groups if isinstance(level, UserPrior) else 0 for level in tree.levels
    ]
    ways: dict[tuple[int, tuple[int, ...], tuple[int, ...]], int] = {}
    for path, item_set in zip(tree.paths, tree.item_set_K, strict=True):
        other = tuple(
            group
            for level, group in zip(path.levels, path.groups, strict=True)
            if not groups_a_user[level]
        )
        ways[item_set, path.levels, other] = math.prod(
            groups_a_user[level] or 1 for level in path.levels
        )
    most = [0] * tree.item_sets
    for (item_set, _, _), number in ways.items():
        most[item_set] += number
    return most
