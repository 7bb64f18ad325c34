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
from torchrec_priors.ops.residual_adapters import Runs
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
        self.adapters = nn.ParameterList(
            new_adapters(len(depth.names), dim, kind, init_std) for depth in depths
        )
        self.embeddings = nn.ParameterList()
        last_K = torch.zeros(len(tree.paths), dtype=torch.int64)  # depth at which a path ends
        for number, depth in enumerate(depths, 1):
            self.register_buffer(f"node_{number}", depth.node_K, persistent=False)
            self.register_buffer(f"parent_{number}", depth.parent_n, persistent=False)
            last_K += depth.node_K >= 0
            if number > 1 and kind == "matrix":
                self.register_buffer(
                    f"parent_group_{number}", depth.parent_group_n, persistent=False
                )
                groups = len(tree.levels[number - 2].groups)  # type: ignore[arg-type]
                self.embeddings.append(nn.Parameter(torch.zeros(groups, dim)))
        self.register_buffer("last_K", last_K, persistent=False)
        self.ends = sorted(set(last_K.tolist()))
        self.leaves: list[int] = depths[-1].node_K.tolist() if depths else []
        reached = [node for node in self.leaves if node >= 0]
        self.leaves_differ = bool(depths) and len(set(reached)) == len(reached)

    def forward(self, state_Nd: Tensor, token_P: Tensor, path_P: Tensor) -> Tensor:
        """
        Args:
            state_Nd: user states h.
            token_P: which state each query starts from.
            path_P: which path each query takes, ascending; pairs are distinct.

        Returns:
            [P, d] queries.
        """
        tokens = max(len(state_Nd), 1)
        end_P = self.last_K[path_P]
        steps: list[
            tuple[Runs, Tensor]
        ] = []  # of each depth, the deepest first: its runs, and where in it pairs end
        rows_of: list[Tensor] = []  # for the rows of each depth, the row above
        key_R = token_P[
            :0
        ]  # rows of the depth below, as the (node, token) above them: node * N + token
        for depth in range(self.depth, 0, -1):
            ends = end_P == depth
            node_P = getattr(self, f"node_{depth}")[path_P[ends]]
            token_of = token_P[ends]
            if (
                depth == self.depth and self.leaves_differ
            ):  # rows are the pairs of the paths, in their order
                key = node_P * tokens + token_of
                place = torch.arange(len(node_P), device=node_P.device)
                counts = torch.bincount(path_P[ends], minlength=len(self.last_K)).tolist()
                runs = zip(self.leaves, counts, strict=True)
            else:
                key, place = torch.unique(
                    torch.cat([key_R, node_P * tokens + token_of]), return_inverse=True
                )
                counts = torch.bincount(
                    key // tokens, minlength=len(self.adapters[depth - 1])
                ).tolist()
                runs = zip(range(len(counts)), counts, strict=True)
            steps.append(([run for run in runs if run[1]], place[len(key_R) :]))
            rows_of.append(place[: len(key_R)])
            key_R = getattr(self, f"parent_{depth}")[key // tokens] * tokens + key % tokens
        rows_of.append(key_R)  # at the top a vector's number is its token
        states = [state_Nd]
        places = [token_P[end_P == 0]]
        for depth, (runs_here, place) in enumerate(reversed(steps), 1):
            added = None
            if depth > 1 and len(self.embeddings):
                added = self.embeddings[depth - 2].index_select(
                    0, getattr(self, f"parent_group_{depth}")
                )
            row_R = rows_of[self.depth + 1 - depth]
            states.append(adapt(states[-1], self.adapters[depth - 1], row_R, runs_here, added))
            places.append(place)
        if self.ends == [self.depth] and self.leaves_differ:
            return states[-1]
        return self._where_paths_end(states, places, end_P)

    def _where_paths_end(self, states: list[Tensor], places: list[Tensor], end_P: Tensor) -> Tensor:
        """[P, d]: each pair's state at the last depth of its path."""
        place_P = torch.zeros_like(end_P)
        first = 0
        for depth in self.ends:
            place_P[end_P == depth] = first + places[depth]
            first += len(states[depth])
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
                step = (
                    F.silu(z @ adapters[node].T)
                    + heads.embeddings[depth - 2][path.groups[depth - 2]]
                )
            z = z + step
        queries.append(z)
    return torch.stack(queries, 1)
