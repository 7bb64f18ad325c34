"""The encoder and the heads of an export as one module that other runtimes can run.

It reads padded histories and has no step that depends on the values of a tensor, so
`torch.export` can follow it. Padding is at the end, where causal attention does not see it. Like
the export, it knows neither times nor events.

Shapes: B histories, L items of the longest one, d width, H heads of attention, D = d / H, K paths.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.encoder.hstu import HSTU, HSTULayer
from torchrec_priors.encoder.sasrec import SASRec, SASRecBlock
from torchrec_priors.encoder.shallow import Shallow
from torchrec_priors.errors import UserError
from torchrec_priors.heads.prior_heads import PriorHeads
from torchrec_priors.heads.score import Score


class PaddedModel(nn.Module):
    """Computes the query of every path at the end of each history."""

    def __init__(self, encoder: nn.Module, heads: PriorHeads, score: Score) -> None:
        """
        Args:
            encoder: the encoder of the export, which keeps its parameters.
            heads: the heads of the export.
            score: the score of the export.

        Raises:
            UserError: this module cannot compute the encoder.
        """
        super().__init__()
        if not isinstance(encoder, HSTU | SASRec | Shallow):
            raise UserError(
                "--format: only the encoders hstu, sasrec and shallow can be exported as a graph: "
                "leave out --format"
            )
        self.encoder = encoder
        self.heads = heads
        self.score = score

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Returns the queries, [B, K, d]; scores are their dot products with item vectors.

        Args:
            vectors: [B, L, d], the vectors of the items of each history, oldest first. What follows
                the end of a history has no effect.
            lengths: int64 [B], the number of items of each history, from 1 to L.
        """
        state_BLd = _states(self.encoder, vectors)
        last_B1d = (lengths - 1)[:, None, None].expand(-1, 1, vectors.shape[2])
        state_Bd = state_BLd.gather(1, last_B1d).squeeze(1)
        return self.score.queries(_every_path(self.heads, state_Bd))


def _states(encoder: nn.Module, vector_BLd: Tensor) -> Tensor:
    """Returns the state of every position, [B, L, d]."""
    position = torch.arange(vector_BLd.shape[1], device=vector_BLd.device)
    if isinstance(encoder, Shallow):
        return encoder.norm(vector_BLd + encoder.position(position))

    assert isinstance(encoder, HSTU | SASRec)
    x_BLd = vector_BLd * encoder.dim**0.5 + encoder.position(position)
    distance_LL = position[:, None] - position[None, :]
    if isinstance(encoder, HSTU):
        for layer in encoder.layers:
            x_BLd = _hstu(layer, x_BLd, distance_LL)  # type: ignore[arg-type]
    else:
        for block in encoder.blocks:
            x_BLd = _sasrec(block, x_BLd, distance_LL)  # type: ignore[arg-type]
    return encoder.norm(x_BLd)


def _hstu(layer: HSTULayer, x_BLd: Tensor, distance_LL: Tensor) -> Tensor:
    """Computes a layer of HSTU (`encoder/hstu.py`)."""
    parts = F.silu(layer.project_in(layer.norm_in(x_BLd))).chunk(4, dim=-1)
    u_BLd = parts[0]
    v, q, k = (_heads(part, layer.heads) for part in parts[1:])

    bias_HLL = layer.bias_HL[:, distance_LL.clamp(min=0)]
    score_BHLL = q.shape[-1] ** -0.5 * (q @ k.transpose(-1, -2)) + bias_HLL
    weight_BHLL = F.silu(score_BHLL).masked_fill(distance_LL < 0, 0.0) / float(layer.context)
    attended_BLd = (weight_BHLL @ v).transpose(1, 2).flatten(2)
    gated_BLd = layer.norm_out(attended_BLd) * u_BLd
    return x_BLd + layer.project_out(gated_BLd)


def _sasrec(block: SASRecBlock, x_BLd: Tensor, distance_LL: Tensor) -> Tensor:
    """Computes a block of SASRec (`encoder/sasrec.py`)."""
    query_BLd = block.norm_attention(x_BLd)
    q = _heads(block.query(query_BLd), block.heads)
    k = _heads(block.key(x_BLd), block.heads)
    v = _heads(block.value(x_BLd), block.heads)

    score_BHLL = q.shape[-1] ** -0.5 * (q @ k.transpose(-1, -2))
    weight_BHLL = score_BHLL.masked_fill(distance_LL < 0, -torch.inf).softmax(-1)
    attended_BLd = (weight_BHLL @ v).transpose(1, 2).flatten(2)
    h_BLd = block.norm_forward(query_BLd + attended_BLd)
    return h_BLd + block.outer(F.relu(block.inner(h_BLd)))


def _heads(x_BLd: Tensor, heads: int) -> Tensor:
    """Divides vectors among the heads of attention: [B, H, L, D]."""
    return x_BLd.unflatten(-1, (heads, -1)).transpose(1, 2)


def _every_path(heads: PriorHeads, state_Bd: Tensor) -> Tensor:
    """Computes `PriorHeads.every_path` for a batch, [B, K, d]."""
    states = [state_Bd[:, None]]
    for depth in range(1, heads.depth + 1):
        adapters = heads.adapters[depth - 1]
        above_Bnd = states[-1].index_select(1, heads.get_buffer(f"parent_{depth}"))
        step = adapters
        if adapters.dim() == 3:
            step = F.silu(torch.einsum("nij,bnj->bni", adapters, above_Bnd))
            embeddings = heads.embeddings_at(depth)
            if embeddings is not None:
                step = step + embeddings
        states.append(above_Bnd + step)
    return torch.cat(states, 1).index_select(1, heads.state_K)
