"""Multiplicative and additive composition: one adapter a path, straight from the user state (Eq. 2).

    q = h + SiLU(W_path h)

Multiplicative paths are combinations of groups, additive ones the groups of every prior; the tree tells them apart.

Shapes: N tokens, d width, P pairs, K paths.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.heads.adapter import AdapterKind, adapt, new_adapters
from torchrec_priors.heads.nodes import Depth, nodes
from torchrec_priors.priors.tree import PriorTree


class FlatHeads(nn.Module):
    """Adapters of the paths of a prior tree; the query of a path without one is the user state."""

    adapter_K: Tensor

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
            depths: which paths have adapters, as `nodes` gives them; all by default.
        """
        super().__init__()
        depths = nodes(tree) if depths is None else depths
        self.adapters = nn.ParameterList(
            new_adapters(len(depth.names), dim, kind, init_std) for depth in depths
        )
        self.embeddings = nn.ParameterList()
        none = torch.full((len(tree.paths),), -1)
        self.register_buffer("adapter_K", depths[0].node_K if depths else none, persistent=False)

    def forward(self, state_Nd: Tensor, token_P: Tensor, path_P: Tensor) -> Tensor:
        """[P, d] queries; arguments as of `HierarchicalHeads`."""
        if not len(self.adapters):
            return state_Nd.index_select(0, token_P)
        counts = torch.bincount(path_P, minlength=len(self.adapter_K)).tolist()
        runs = [run for run in zip(self.adapter_K.tolist(), counts, strict=True) if run[1]]
        return adapt(state_Nd, self.adapters[0], token_P, runs)


def flat_reference(heads: FlatHeads, tree: PriorTree, state_Nd: Tensor) -> Tensor:
    """Eq. 2 written out for every token and path: [N, K, d]."""
    queries = []
    for adapter in heads.adapter_K.tolist():
        if adapter < 0:
            queries.append(state_Nd)
        else:
            weight = heads.adapters[0][adapter]
            queries.append(
                state_Nd + (F.silu(state_Nd @ weight.T) if weight.dim() == 2 else weight)
            )
    return torch.stack(queries, 1)
