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
        self.paths = len(tree.paths)
        self.depth = len(tree.levels)
        self.adapters = nn.ParameterList()
        self.embeddings = nn.ParameterList()
        for depth in range(1, self.depth + 1):
            prefixes = sorted({path.groups[:depth] for path in tree.paths})
            number = {prefix: index for index, prefix in enumerate(prefixes)}
            node_K = torch.tensor([number[path.groups[:depth]] for path in tree.paths])
            parent_K = torch.tensor([path.groups[depth - 2] if depth > 1 else 0 for path in tree.paths])
            parent_of_node = torch.zeros(len(prefixes), dtype=torch.int64).scatter_(0, node_K, parent_K)
            self.register_buffer(f"node_{depth}", node_K, persistent=False)
            self.register_buffer(f"parent_group_{depth}", parent_of_node, persistent=False)
            self.adapters.append(nn.Parameter(torch.zeros(len(prefixes), dim, dim)))
            if depth > 1:
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
            parent = z.index_select(0, self._row_of_parent(depth, node, token, keys[depth - 1], tokens))
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

    def _row_of_parent(self, depth: int, node: Tensor, token: Tensor, above: Tensor, tokens: int) -> Tensor:
        if depth == 1:
            return token
        node_K, parent_K = getattr(self, f"node_{depth}"), getattr(self, f"node_{depth - 1}")
        parent_of_node = torch.zeros(len(self.adapters[depth - 1]), dtype=torch.int64, device=node.device)
        parent_of_node = parent_of_node.scatter_(0, node_K, parent_K)
        return torch.searchsorted(above, parent_of_node[node] * tokens + token)


def hierarchical_reference(heads: HierarchicalHeads, tree: PriorTree, state_Nd: Tensor) -> Tensor:
    """Eq. 4-5 written out for every token and path: [N, K, d]."""
    queries = []
    for path in tree.paths:
        z = state_Nd
        for depth in range(1, len(path.groups) + 1):
            prefixes = sorted({other.groups[:depth] for other in tree.paths})
            weight = heads.adapters[depth - 1][prefixes.index(path.groups[:depth])]
            step = F.silu(z @ weight.T)
            if depth > 1:
                step = step + heads.embeddings[depth - 2][path.groups[depth - 2]]
            z = z + step
        queries.append(z)
    return torch.stack(queries, 1)
