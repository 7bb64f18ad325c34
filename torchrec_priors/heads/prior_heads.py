"""Computes the queries of prior heads (Eq. 2, 4 and 5) for the (token, path) pairs that need them.

    z_0 = h
    z_d = z_{d-1} + A_d(z_{d-1})              (Eq. 4)
    A_d(z) = SiLU(W_path z) + e_{g_{d-1}}     (Eq. 5)
    q = z_D

Here h is the user's state at a token (an item of a context), D the number of depths, W_path the
matrix of the path's node at depth d, and e_{g_{d-1}} the learned embedding of the path's group at
level d - 1.

A path goes through one node of the tree at each depth. With hierarchical composition, depth d is
level d of the tree. With multiplicative or additive composition, there is only one depth, with a
node for each path. The equation is then Eq. 2: q = h + SiLU(W_path h).

There is no embedding term at depth 1. Embeddings are zero at first, and so are matrices by default,
so before training the query of every head is the user's state. If adapters are vectors, the vector
of the node replaces both terms of Eq. 5. At a node without an adapter, z_d is z_{d-1}.

Shapes: N tokens, d width, P (token, path) pairs, K paths, R rows at one depth. A row is the vector
z_d of one node for one token.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.heads.adapter import AdapterKind, adapt, adapt_on_gpu, new_adapters
from torchrec_priors.heads.nodes import Depth, nodes
from torchrec_priors.ops.gpu_kernel import has_kernels
from torchrec_priors.ops.residual_adapters import DeviceRuns, Runs
from torchrec_priors.priors.tree import PriorTree


@dataclass(frozen=True)
class _DepthRows:
    """The rows that are computed at one depth.

    Attributes:
        runs: (adapter, number of consecutive rows that use it) pairs.
        end_P: for each (token, path) pair that ends at this depth, its row. A pair ends at the last
            node of its path that has an adapter.
        above_R: for each row, the row of the previous depth that it is computed from; at the first
            depth, the token.
    """

    runs: Runs
    end_P: Tensor
    above_R: Tensor


class PriorHeads(nn.Module):
    """Adapters at the nodes of a prior tree.

    If several paths share a node, its vector is computed only once per token.
    """

    last_K: Tensor
    state_K: Tensor

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
            tree: the prior tree.
            dim: d.
            depths: the nodes with adapters, as `nodes` returns them; by default all nodes.
            kind: whether adapters are matrices or vectors.
            init_std: standard deviation of the adapters' initial values.
        """
        super().__init__()
        depths = nodes(tree) if depths is None else depths
        self.depth = len(depths)
        self.adapters = nn.ParameterList(
            new_adapters(len(depth.names), dim, kind, init_std) for depth in depths
        )
        self.embeddings = nn.ParameterList()

        # The depth of each path's last node that has an adapter; 0 if it has none.
        last_K = torch.zeros(len(tree.paths), dtype=torch.int64)
        for number, depth in enumerate(depths, 1):
            self.register_buffer(f"node_{number}", depth.node_K, persistent=False)
            self.register_buffer(f"parent_{number}", depth.parent_n, persistent=False)
            last_K += depth.node_K >= 0

            if number > 1 and kind == "matrix":
                group_n = depth.parent_group_n
                self.register_buffer(f"parent_group_{number}", group_n, persistent=False)
                groups = len(tree.group_names[number - 2])
                self.embeddings.append(nn.Parameter(torch.zeros(groups, dim)))

        self.register_buffer("last_K", last_K, persistent=False)
        self.register_buffer("state_K", _states(depths, last_K), persistent=False)
        self._register_runs(depths, len(tree.paths))
        self.ends = sorted(set(last_K.tolist()))
        self.leaves: list[int] = depths[-1].node_K.tolist() if depths else []
        reached = [node for node in self.leaves if node >= 0]
        self.leaves_differ = bool(depths) and len(set(reached)) == len(reached)

    def forward(self, state_Nd: Tensor, token_P: Tensor, path_P: Tensor) -> Tensor:
        """Computes the queries of (token, path) pairs.

        Args:
            state_Nd: the users' states h.
            token_P: index of each pair's state in `state_Nd`.
            path_P: path of each pair, ascending; pairs are distinct.

        Returns:
            [P, d] queries.
        """
        if has_kernels(state_Nd):
            return self._on_gpu(state_Nd, token_P, path_P)

        end_P = self.last_K[path_P]
        rows_of_depths = self._rows(len(state_Nd), token_P, path_P, end_P)

        states = [state_Nd]
        for depth, rows in enumerate(rows_of_depths, 1):
            adapters = self.adapters[depth - 1]
            embeddings = self.embeddings_at(depth)
            states.append(adapt(states[-1], adapters, rows.above_R, rows.runs, embeddings))

        # The usual case: all pairs end at the last depth, and each has a row of its own there. The
        # rows are in the order of the pairs.
        if self.ends == [self.depth] and self.leaves_differ:
            return states[-1]

        rows_where_pairs_end = [token_P[end_P == 0], *(rows.end_P for rows in rows_of_depths)]
        return self._where_pairs_end(states, rows_where_pairs_end, end_P)

    def every_path(self, state_d: Tensor) -> Tensor:
        """Computes the queries of all paths for one user state, [K, d].

        It does one batched matrix product per depth instead of one product per node, so that the
        time hardly depends on the number of paths. The last bits may differ from those of
        `forward`.

        Args:
            state_d: the user state.
        """
        states = [state_d[None]]
        for depth in range(1, self.depth + 1):
            adapters = self.adapters[depth - 1]
            parent_n = getattr(self, f"parent_{depth}")
            above_nd = states[-1].index_select(0, parent_n)
            if adapters.dim() == 2:
                states.append(above_nd + adapters)
                continue

            step_nd = F.silu(torch.bmm(adapters, above_nd[..., None])[..., 0])
            embeddings = self.embeddings_at(depth)
            if embeddings is not None:
                step_nd = step_nd + embeddings
            states.append(above_nd + step_nd)
        return torch.cat(states).index_select(0, self.state_K)

    def _register_runs(self, depths: list[Depth], paths: int) -> None:
        """Registers the runs of rows that the GPU kernels process.

        At each depth, the pairs of one path are a run, because they use the same adapter. Runs are
        the same in every batch, except for the number of their rows.
        """
        self.register_buffer("path_K1", torch.arange(paths + 1), persistent=False)
        for number, depth in enumerate(depths, 1):
            # Paths without a node come first in the order, and are left out.
            order_K = torch.argsort(depth.node_K, stable=True)
            runs = order_K[int((depth.node_K < 0).sum()) :]
            node = torch.arange(len(depth.names) + 1)
            first_n1 = torch.searchsorted(depth.node_K[runs].contiguous(), node)
            self.register_buffer(f"runs_{number}", runs, persistent=False)
            self.register_buffer(f"first_run_{number}", first_n1, persistent=False)

    def _on_gpu(self, state_Nd: Tensor, token_P: Tensor, path_P: Tensor) -> Tensor:
        """Computes the queries without making the host wait for the device.

        Every pair has a row of its own at every depth. A node that several paths share is computed
        once for each of them, because finding the distinct rows would take longer.
        """
        if not self.depth:
            return state_Nd.index_select(0, token_P)

        bounds_K1 = torch.searchsorted(path_P, self.get_buffer("path_K1"))
        row_P: Tensor | None = token_P
        z = state_Nd
        for depth in range(1, self.depth + 1):
            runs = DeviceRuns(
                run_R=path_P,
                adapter_A=self.get_buffer(f"node_{depth}"),
                bounds_A1=bounds_K1,
                runs_by_adapter=self.get_buffer(f"runs_{depth}"),
                first_run_G1=self.get_buffer(f"first_run_{depth}"),
            )
            z = adapt_on_gpu(z, self.adapters[depth - 1], row_P, runs, self.embeddings_at(depth))
            row_P = None
        return z

    def _rows(
        self, tokens: int, token_P: Tensor, path_P: Tensor, end_P: Tensor
    ) -> list[_DepthRows]:
        """Returns the rows of each depth, from the first depth to the last.

        There is a row for each node and token that at least one (token, path) pair goes through or
        ends at.
        """
        tokens = max(tokens, 1)

        # The loop starts at the last depth, because the rows of a depth are those that the depth
        # below needs, and those at which pairs end. The key of a row is node * tokens + token.
        key_below_R = token_P[:0]
        runs_and_ends: list[tuple[Runs, Tensor]] = []
        rows_above: list[Tensor] = []
        for depth in range(self.depth, 0, -1):
            ends_here = end_P == depth
            node_P = getattr(self, f"node_{depth}")[path_P[ends_here]]
            ending_key = node_P * tokens + token_P[ends_here]

            if depth == self.depth and self.leaves_differ:
                # The leaves (nodes of the last depth) are in the order of paths, and each pair has
                # its own row, so the keys are already sorted and distinct.
                key_R = ending_key
                row_of_key = torch.arange(len(node_P), device=node_P.device)
                path_counts = torch.bincount(path_P[ends_here], minlength=len(self.last_K))
                runs = _runs(self.leaves, path_counts)
            else:
                keys = torch.cat([key_below_R, ending_key])
                key_R, row_of_key = torch.unique(keys, return_inverse=True)
                adapters = len(self.adapters[depth - 1])
                node_counts = torch.bincount(key_R // tokens, minlength=adapters)
                runs = _runs(range(adapters), node_counts)

            rows_above.append(row_of_key[: len(key_below_R)])
            runs_and_ends.append((runs, row_of_key[len(key_below_R) :]))
            parent_n = getattr(self, f"parent_{depth}")
            key_below_R = parent_n[key_R // tokens] * tokens + key_R % tokens

        # Above the first depth are the users' states, whose row numbers are the tokens. The first
        # entry of `rows_above` is empty, because no depth is below the last one. It is left out.
        rows_above.append(key_below_R)
        first_to_last = zip(reversed(runs_and_ends), reversed(rows_above[1:]), strict=True)
        return [_DepthRows(runs, end_P, above_R) for (runs, end_P), above_R in first_to_last]

    def embeddings_at(self, depth: int) -> Tensor | None:
        """Returns e of the group above each node of a depth, [nodes, d]; None if there is no e."""
        if depth == 1 or not len(self.embeddings):
            return None
        group_n = getattr(self, f"parent_group_{depth}")
        return self.embeddings[depth - 2].index_select(0, group_n)

    def _where_pairs_end(
        self, states: list[Tensor], row_at_end: list[Tensor], end_P: Tensor
    ) -> Tensor:
        """Collects the vector of each pair at the depth at which it ends.

        Args:
            states: the rows' vectors at each depth; at depth 0, the users' states.
            row_at_end: for each depth, from 0, the row of each pair that ends there.
            end_P: the depth at which each pair ends.

        Returns:
            [P, d].
        """
        row_P = torch.zeros_like(end_P)
        first = 0
        for depth in self.ends:
            row_P[end_P == depth] = first + row_at_end[depth]
            first += len(states[depth])

        last = [states[depth] for depth in self.ends]
        rows = last[0] if len(last) == 1 else torch.cat(last)
        return rows.index_select(0, row_P)


def _states(depths: list[Depth], last_K: Tensor) -> Tensor:
    """Returns the index of each path's last state: int64 [K].

    State 0 is the user state; the states of the first depth's nodes follow, then those of the
    second depth, and so on.

    Args:
        depths: the nodes with adapters.
        last_K: the depth of each path's last node with an adapter.
    """
    state_K = torch.zeros_like(last_K)
    first = 1
    for number, depth in enumerate(depths, 1):
        state_K = torch.where(last_K == number, first + depth.node_K, state_K)
        first += len(depth.names)
    return state_K


def _runs(adapters: list[int] | range, counts: Tensor) -> Runs:
    """Returns (adapter, number of rows) for the adapters that have rows."""
    return [run for run in zip(adapters, counts.tolist(), strict=True) if run[1]]


def heads_reference(heads: PriorHeads, tree: PriorTree, state_Nd: Tensor) -> Tensor:
    """Computes the query of every token and path, [N, K, d], directly from Eq. 2, 4 and 5.

    It is a plain reference for tests.
    """
    queries = []
    for number, path in enumerate(tree.paths):
        z = state_Nd
        for depth, adapters in enumerate(heads.adapters, 1):
            node = int(getattr(heads, f"node_{depth}")[number])
            if node < 0:
                break

            if adapters.dim() == 2:
                step = adapters[node]
            else:
                step = F.silu(z @ adapters[node].T)
                if depth > 1:
                    step = step + heads.embeddings[depth - 2][path.groups[depth - 2]]
            z = z + step
        queries.append(z)
    return torch.stack(queries, 1)
