"""A plain dense model that computes the same loss as our model, as published code does it.

It uses padded batches, every head at every position, logits of all negatives, and a dense table. It
uses batched products and computes nothing twice. Heads with a common prefix in the tree share the
queries of the prefix. If a positive is among the negatives, its share is subtracted from the sum
over all negatives.

Shapes: B windows, T positions, O offsets (tau), X = T + O, K paths, S item sets, d width, H
attention heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.encoder.hstu import HSTU, HSTULayer
from torchrec_priors.heads.prior_heads import PriorHeads
from torchrec_priors.priors.prior import Targets
from torchrec_priors.priors.tree import PriorTree


class DenseReference(nn.Module):
    """The dense model. It uses the parameters of encoder and heads, but not their code."""

    def __init__(
        self,
        tree: PriorTree,
        table: nn.Embedding,
        encoder: HSTU,
        heads: PriorHeads,
        horizon: int,
    ):
        super().__init__()
        self.tree = tree
        self.table = table
        self.encoder = encoder
        self.heads = heads
        self.horizon = horizon

    def forward(
        self,
        item_BX: Tensor,
        event_BX: Tensor,
        length_B: Tensor,
        ids_S: list[Tensor],
        cell_KO: Tensor,
    ) -> Tensor:
        """Returns the loss of a batch (Eq. 7 and 8).

        Args:
            item_BX: the row ids of the context and of the items after it, padded at the end.
            event_BX: the event codes of these items.
            length_B: the number of items in each row of `item_BX`, without padding.
            ids_S: the negatives of each item set, in ascending order.
            cell_KO: the weight of a positive for each path and offset.
        """
        vector_BXd = self.table(item_BX)
        positions = item_BX.shape[1] - self.horizon
        position_T = torch.arange(positions)
        # The last item of a sequence has no target.
        in_context_BT = position_T < (length_B[:, None] - 1).clamp(max=positions)
        query_BTKd = self._queries(self._encode(vector_BXd[:, :positions], in_context_BT))

        source_TO = position_T[:, None] + torch.arange(1, self.horizon + 1)
        exists_BTO = (source_TO < length_B[:, None, None]) & in_context_BT[..., None]
        score_BTKO = torch.einsum("btkd,btod->btko", query_BTKd, vector_BXd[:, source_TO])

        # The sum for each path is over all negatives of the path's item set.
        sets_K = torch.tensor(self.tree.item_set_K)
        copies_BTOS = torch.stack([_copies(item_BX[:, source_TO], ids) for ids in ids_S], -1)
        parts = []
        for number, ids in enumerate(ids_S):
            logits = query_BTKd[:, :, sets_K == number] @ self.table(ids).T
            parts.append(torch.logsumexp(logits, -1))
        order = torch.cat([torch.nonzero(sets_K == number)[:, 0] for number in range(len(ids_S))])
        all_BTK = torch.cat(parts, -1)[..., order.argsort()]

        copies_BTKO = copies_BTOS[..., sets_K].transpose(2, 3)
        nll_BTKO = _without_copies(all_BTK[..., None], score_BTKO, copies_BTKO) - score_BTKO
        positive_BTKO = self._positives(item_BX, event_BX, source_TO, exists_BTO)
        return torch.where(positive_BTKO, cell_KO * nll_BTKO, 0.0).sum()

    def _encode(self, vector_BTd: Tensor, in_context_BT: Tensor) -> Tensor:
        """Computes the state at every position, [B, T, d]."""
        positions = vector_BTd.shape[1]
        x = vector_BTd * self.encoder.dim**0.5 + self.encoder.position.weight[:positions]

        position_T = torch.arange(positions)
        causal = (position_T[:, None] >= position_T) & in_context_BT[:, None, None, :]
        distance = (position_T[:, None] - position_T).clamp(min=0)
        for layer in self.encoder.layers:
            assert isinstance(layer, HSTULayer)
            x = x + _layer(layer, x, causal, distance)
        state: Tensor = self.encoder.norm(x)
        return state

    def _queries(self, state_BTd: Tensor) -> Tensor:
        """Computes the queries of all paths at every position by Eq. 4-5, [B, T, K, d]."""
        z = state_BTd[:, :, None]
        for depth, weights in enumerate(self.heads.adapters, 1):
            parent = getattr(self.heads, f"parent_{depth}")
            above = z[:, :, parent]
            z = above + F.silu(torch.einsum("btnd,ned->btne", above, weights))
            if depth > 1:
                group = getattr(self.heads, f"parent_group_{depth}")
                z = z + self.heads.embeddings[depth - 2][group]

        # A tree without adapters has one path, which is the state itself.
        depths = len(self.heads.adapters)
        if not depths:
            return z
        return z[:, :, getattr(self.heads, f"node_{depths}")]

    @torch.no_grad()
    def _positives(
        self, item_BX: Tensor, event_BX: Tensor, source_TO: Tensor, exists_BTO: Tensor
    ) -> Tensor:
        """Marks the targets of each path, bool [B, T, K, O]."""
        window, token, offset = torch.nonzero(exists_BTO, as_tuple=True)
        source = source_TO[token, offset]
        targets = Targets(item_BX[window, source], offset + 1, event_BX[window, source], window)
        index, path = self.tree.assign(targets)

        out = torch.zeros(
            *exists_BTO.shape[:2], len(self.tree.item_set_K), exists_BTO.shape[2], dtype=torch.bool
        )
        out[window[index], token[index], path, offset[index]] = True
        return out


def _layer(layer: HSTULayer, x_BTd: Tensor, causal: Tensor, distance: Tensor) -> Tensor:
    """Computes the result of one HSTU layer, without the residual."""
    u, v, q, k = F.silu(layer.project_in(layer.norm_in(x_BTd))).chunk(4, dim=-1)
    v, q, k = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in (v, q, k))
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + layer.bias_HL[:, distance]
    weights = torch.where(causal, F.silu(scores), 0.0) / layer.context
    attended = (weights @ v).transpose(1, 2).flatten(2)
    added: Tensor = layer.project_out(layer.norm_out(attended) * u)
    return added


def _copies(item: Tensor, ids: Tensor) -> Tensor:
    """Counts how often each item is among ascending ids."""
    return torch.searchsorted(ids, item, right=True) - torch.searchsorted(ids, item)


def _without_copies(all_sum: Tensor, score: Tensor, copies: Tensor) -> Tensor:
    """Computes log(e^all - copies e^score + e^score), where `all_sum` is the log of a sum."""
    has_copies = copies > 0
    # If there are copies, all + log(1 + (1 - copies) e^(score - all)) is the same and cannot
    # overflow.
    share = torch.exp(torch.where(has_copies, score - all_sum, 0.0))
    rest = torch.where(has_copies, (1 - copies) * share, 0.0)
    with_copies = all_sum + torch.log1p(rest.clamp(min=-1 + 1e-6))
    return torch.where(has_copies, with_copies, torch.logaddexp(all_sum, score))
