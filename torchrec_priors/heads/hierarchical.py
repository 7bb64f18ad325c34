"""Hierarchical composition of prior heads (Eq. 4-5), computed for (token, path) pairs that are asked for, not for all.

    z_0 = h,    z_d = z_{d-1} + SiLU(W_path z_{d-1}) + e_{g_{d-1}},    q = z_D

The embedding term is zero at depth 1; W and e start at zero, so that every head begins as the user state itself. With
one level this is Eq. 2; with none, q = h.

Shapes: N tokens, d width, P pairs, K paths.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.ops.grouped_linear import grouped_linear
from torchrec_priors.priors.tree import PriorTree


class HierarchicalHeads(nn.Module):
    """Adapters over the nodes of a prior tree; prefixes that several paths share are computed once a token."""

    def __init__(self, tree: PriorTree, dim: int) -> None:
        super().__init__()
        self.depth = len(tree.levels)
        self.adapters = nn.ParameterList()
        self.embeddings = nn.ParameterList()
        number: dict[tuple[int, ...], int] = {(): 0}
        for depth in range(1, self.depth + 1):
            above, prefixes = number, _prefixes(tree, depth)
            number = {prefix: index for index, prefix in enumerate(prefixes)}
            node_K = torch.tensor([number[path.groups[:depth]] for path in tree.paths])
            self.register_buffer(f"node_{depth}", node_K, persistent=False)
            self.adapters.append(nn.Parameter(torch.zeros(len(prefixes), dim, dim)))
            parent = torch.tensor([above[prefix[:-1]] for prefix in prefixes])
            self.register_buffer(f"parent_{depth}", parent, persistent=False)
            if depth > 1:
                parent_group = torch.tensor([prefix[-2] for prefix in prefixes])
                self.register_buffer(f"parent_group_{depth}", parent_group, persistent=False)
                groups = len(tree.levels[depth - 2].groups)  # type: ignore[arg-type]
                self.embeddings.append(nn.Parameter(torch.zeros(groups, dim)))

    def forward(self, state_Nd: Tensor, token_P: Tensor, path_P: Tensor) -> Tensor:
        """
        Args:
            state_Nd: user states h.
            token_P: which state each query starts from.
            path_P: which path each query takes, ascending; pairs are distinct.

        Returns:
            [P, d] queries.
        """
        tokens = len(state_Nd)
        keys = [torch.arange(tokens, device=state_Nd.device)]  # (node, token) as node * N + token, ascending
        for depth in range(1, self.depth + 1):
            node_K = getattr(self, f"node_{depth}")
            keys.append(torch.unique(node_K[path_P] * tokens + token_P))
        z = state_Nd
        for depth in range(1, self.depth + 1):
            node, token = keys[depth] // max(tokens, 1), keys[depth] % max(tokens, 1)
            key_of_parent = getattr(self, f"parent_{depth}")[node] * tokens + token
            parent = z.index_select(0, torch.searchsorted(keys[depth - 1], key_of_parent))
            weight = self.adapters[depth - 1]
            counts = torch.bincount(node, minlength=len(weight)).tolist()
            z = parent + F.silu(grouped_linear(parent, weight, counts))
            if depth > 1:
                groups = getattr(self, f"parent_group_{depth}")[node]
                z = z + self.embeddings[depth - 2].index_select(0, groups)
        if self.depth == 0:
            return z.index_select(0, token_P)
        node_P = getattr(self, f"node_{self.depth}")[path_P]
        return z.index_select(0, torch.searchsorted(keys[-1], node_P * tokens + token_P))


def node_names(tree: PriorTree) -> list[list[str]]:
    """Names of the nodes at each depth, in the order of the adapters' matrices there."""
    prefixes = [_prefixes(tree, depth) for depth in range(1, len(tree.levels) + 1)]
    groups = group_names(tree)
    return [[" / ".join(groups[d][g] for d, g in enumerate(prefix)) for prefix in level] for level in prefixes]


def _prefixes(tree: PriorTree, depth: int) -> list[tuple[int, ...]]:
    """The nodes at a depth, in their order."""
    return sorted({path.groups[:depth] for path in tree.paths})


def group_names(tree: PriorTree) -> list[list[str]]:
    """Names of the groups of each level; those of all but the last are in the order of the embeddings."""
    return [list(level.groups) for level in tree.levels]  # type: ignore[arg-type]


def hierarchical_reference(heads: HierarchicalHeads, tree: PriorTree, state_Nd: Tensor) -> Tensor:
    """Eq. 4-5 written out for every token and path: [N, K, d]."""
    queries = []
    for path in tree.paths:
        z = state_Nd
        for depth in range(1, len(path.groups) + 1):
            weight = heads.adapters[depth - 1][_prefixes(tree, depth).index(path.groups[:depth])]
            step = F.silu(z @ weight.T)
            if depth > 1:
                step = step + heads.embeddings[depth - 2][path.groups[depth - 2]]
            z = z + step
        queries.append(z)
    return torch.stack(queries, 1)
