"""The (token, path) pairs whose queries a joint softmax needs.

A token that has a positive in a group of paths (`priors/joint.py`) is a row of this group. It needs
the queries of all paths of the group, because its positive competes with the items of all of them.

Shapes: N tokens, K paths, M positives, P (token, path) pairs, R rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.ops.joint_softmax import RowGroup
from torchrec_priors.priors.joint import JointPaths


@dataclass(frozen=True)
class JointRows:
    """The rows of a joint softmax, and the pairs that need queries.

    Attributes:
        token_P, path_P: token and path of each pair, sorted by path.
        groups: the rows of each group of paths that has any.
        order_M: the positives, sorted by row.
        row_M, query_M: for each positive in this order, its row, and the pair of its own path.
    """

    token_P: Tensor
    path_P: Tensor
    groups: list[RowGroup]
    order_M: Tensor
    row_M: Tensor
    query_M: Tensor

    @classmethod
    def of(
        cls, joint: JointPaths, item_set_K: list[int], token_M: Tensor, path_M: Tensor, tokens: int
    ) -> "JointRows":
        """Finds the rows of some positives.

        Args:
            joint: the groups of paths.
            item_set_K: the item set of each path, ascending.
            token_M, path_M: token and path of each positive.
            tokens: N.
        """
        device = token_M.device
        group_K = torch.tensor(joint.group_K, device=device)
        key_R, row_M = torch.unique(group_K[path_M] * tokens + token_M, return_inverse=True)
        token_R = key_R % max(tokens, 1)
        rows = torch.bincount(key_R // max(tokens, 1), minlength=len(joint.paths)).tolist()

        first_row = []
        row = 0
        for count in rows:
            first_row.append(row)
            row += count

        # The pairs of a path are the rows of its group.
        parts = []
        first_K = []
        pair = 0
        for group in joint.group_K:
            first_K.append(pair)
            parts.append(token_R[first_row[group] : first_row[group] + rows[group]])
            pair += rows[group]
        counts_K = torch.tensor([len(part) for part in parts], device=device)
        path_P = torch.repeat_interleave(torch.arange(len(parts), device=device), counts_K)

        groups = []
        for paths, count in zip(joint.paths, rows, strict=True):
            sets = [item_set_K[path] for path in paths]
            groups.append(RowGroup(count, sets, [first_K[path] for path in paths]))

        order_M = torch.argsort(row_M, stable=True)
        row_M = row_M[order_M]
        path_M = path_M[order_M]
        in_group_M = row_M - torch.tensor(first_row, device=device)[group_K[path_M]]
        query_M = torch.tensor(first_K, device=device)[path_M] + in_group_M
        return cls(torch.cat(parts), path_P, groups, order_M, row_M, query_M)
