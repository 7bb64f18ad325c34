"""The paths of an item set that are open to each user: few, if groups of users have own heads.

Scores are computed only for these, so the cost of retrieval is that of a user's own heads, however
many groups of users exist.

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
    """For each user some paths of one item set, ascending; all that are open to it are included.

    Attributes:
        path_Bp: their numbers.
        vector_Bpd: their queries.
        bias_Bp: added to their scores; -inf if a path is closed all the same.
    """

    path_Bp: Tensor
    vector_Bpd: Tensor
    bias_Bp: Tensor


def open_paths(vector_BKd: Tensor, bias_BK: Tensor, paths: slice, most: int) -> OpenPaths:
    """Picks the paths of one item set that each user has open.

    Args:
        bias_BK: -inf for closed paths.
        paths: of the item set.
        most: the largest number of them that a user of the data set has open. That many are taken
            for everyone, unless somebody has more, such as unknown users: what is computed for a
            user hardly ever depends on the others in the batch.
    """
    vector_Bpd = vector_BKd[:, paths]
    bias_Bp = bias_BK[:, paths]
    column_Bp = torch.arange(bias_Bp.shape[1], device=bias_BK.device).expand(len(bias_BK), -1)
    is_open_Bp = ~torch.isneginf(bias_Bp)

    if most < bias_Bp.shape[1] and bool((is_open_Bp.sum(1) <= most).all()):
        # Open paths first, in their order; then closed ones fill up to `most`.
        first = is_open_Bp.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        column_Bp = first.sort(1).values
        bias_Bp = bias_Bp.gather(1, column_Bp)
        vector_Bpd = vector_Bpd.gather(1, column_Bp[..., None].expand(-1, -1, vector_BKd.shape[2]))
    return OpenPaths(column_Bp + paths.start, vector_Bpd, bias_Bp)


def most_open(tree: PriorTree) -> list[int]:
    """For each item set, the largest number of its paths that a user of the data set has open."""
    groups_a_user = [
        level.most_groups if isinstance(level, UserPrior) else 0 for level in tree.levels
    ]

    # Paths that differ only in groups of users are alternatives: a user has at most the product of
    # the groups that it is in.
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
