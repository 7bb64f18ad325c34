"""Hierarchical composition of prior heads (Eq. 4-5), computed for (token, path) pairs that are asked for, not for all.

    z_0 = h,    z_d = z_{d-1} + SiLU(W_path z_{d-1}) + e_{g_{d-1}},    q = z_D

The embedding term is zero at depth 1; e starts at zero and so does W, if not told otherwise, so that every head begins
as the user state itself. With one level this is Eq. 2; with none, q = h. Where adapters are vectors, the vector of the
node takes the place of both terms. A node without an adapter has z_d = z_{d-1}.

Shapes: N tokens, d width, P pairs, K paths.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.heads.adapter import AdapterKind, adapt, new_adapters
from torchrec_priors.heads.nodes import Depth, nodes
from torchrec_priors.priors.tree import PriorTree


class HierarchicalHeads(nn.Module):
    """Adapters over the nodes of a prior tree; prefixes that several paths share are computed once a token."""

    last_K: Tensor

    def __init__(
        self,
        tree: PriorTree,
        dim: int,
        depths: list[Depth] | None = None,
        *,
        kind: AdapterKind = "matrix",
        init_std: float = 0.0,
    ) -> None:
        """
        Args:
            depths: the nodes with adapters, as `nodes` gives them; all by default.
        """
        super().__init__()
        depths = nodes(tree) if depths is None else depths
        self.depth = len(depths)
        self.adapters = nn.ParameterList(new_adapters(len(depth.names), dim, kind, init_std) for depth in depths)
        self.embeddings = nn.ParameterList()
        last_K = torch.zeros(len(tree.paths), dtype=torch.int64)  # depth at which a path ends
        for number, depth in enumerate(depths, 1):
            self.register_buffer(f"node_{number}", depth.node_K, persistent=False)
            self.register_buffer(f"parent_{number}", depth.parent_n, persistent=False)
            last_K += depth.node_K >= 0
            if number > 1 and kind == "matrix":
                self.register_buffer(f"parent_group_{number}", depth.parent_group_n, persistent=False)
                groups = len(tree.levels[number - 2].groups)  # type: ignore[arg-type]
                self.embeddings.append(nn.Parameter(torch.zeros(groups, dim)))
        self.register_buffer("last_K", last_K, persistent=False)
        self.ends = sorted(set(last_K.tolist()))

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
            node_P = getattr(self, f"node_{depth}")[path_P]
            passes = node_P >= 0
            keys.append(torch.unique(node_P[passes] * tokens + token_P[passes]))
        states = [state_Nd]
        for depth in range(1, self.depth + 1):
            node, token = keys[depth] // max(tokens, 1), keys[depth] % max(tokens, 1)
            key_of_parent = getattr(self, f"parent_{depth}")[node] * tokens + token
            parent = states[-1].index_select(0, torch.searchsorted(keys[depth - 1], key_of_parent))
            z = parent + adapt(parent, self.adapters[depth - 1], node)
            if depth > 1 and len(self.embeddings):
                groups = getattr(self, f"parent_group_{depth}")[node]
                z = z + self.embeddings[depth - 2].index_select(0, groups)
            states.append(z)
        return self._where_paths_end(states, keys, token_P, path_P)

    def _where_paths_end(self, states: list[Tensor], keys: list[Tensor], token_P: Tensor, path_P: Tensor) -> Tensor:
        """[P, d]: each pair's state at the last depth of its path."""
        place_P, first = torch.zeros_like(token_P), 0
        for depth in self.ends:
            ends = self.last_K[path_P] == depth
            key = token_P[ends]
            if depth:
                key = getattr(self, f"node_{depth}")[path_P[ends]] * len(states[0]) + key
            place_P[ends] = first + torch.searchsorted(keys[depth], key)
            first += len(keys[depth])
        last = [states[depth] for depth in self.ends]
        return (last[0] if len(last) == 1 else torch.cat(last)).index_select(0, place_P)


def hierarchical_reference(heads: HierarchicalHeads, tree: PriorTree, state_Nd: Tensor) -> Tensor:
    """Eq. 4-5 written out for every token and path: [N, K, d]."""
    queries = []
    for number, path in enumerate(tree.paths):
        z = state_Nd
        for depth, adapters in enumerate(heads.adapters, 1):
            node = int(getattr(heads, f"node_{depth}")[number])
            if node < 0:
                break
            if adapters.dim() == 2:
                step = adapters[node]
            elif depth == 1:
                step = F.silu(z @ adapters[node].T)
            else:
                step = F.silu(z @ adapters[node].T) + heads.embeddings[depth - 2][path.groups[depth - 2]]
            z = z + step
        queries.append(z)
    return torch.stack(queries, 1)
