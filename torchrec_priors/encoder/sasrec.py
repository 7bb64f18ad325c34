"""SASRec (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018) on jagged
tensors.

    x = dropout(sqrt(d) * item + position)                              (SASRec's Eq. 1, and code)
    q = norm(x)
    y = q + dropout(softmax((q W_Q) (x W_K)^T / sqrt(D), causal) x W_V) (SASRec's Eq. 2-4)
    h = norm(y)
    x = h + dropout(dropout(ReLU(h W_1 + b_1)) W_2 + b_2)               (SASRec's Eq. 5-6)
    state = norm(x) after the last block

The paper writes x + dropout(g(norm(x))) for both halves of a block. The equations above are those
of the authors' published code: queries are normalised, keys and values are not, each half adds its
normalised input, and there is no projection after the heads.

Two things differ from that code. Dropout is on the output of attention, as in the paper, not on its
weights. And the loss is the in-group softmax over many negatives, as for every model of this
package, not binary cross-entropy with one negative.

Shapes: N tokens, d model width, H heads, D = d / H.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.encoder.positions import positions
from torchrec_priors.errors import UserError
from torchrec_priors.ops.keyed_dropout import DropoutKeys, keyed_dropout
from torchrec_priors.ops.softmax_attention import softmax_attention
from torchrec_priors.settings.encoder import EncoderConfig

_EPSILON = 1e-8  # of layer norm, as in the authors' code
_DROPOUTS = 3  # in a block


class SASRecBlock(nn.Module):
    """One block, from [N, d] to [N, d]."""

    def __init__(self, dim: int, heads: int, dropout: float, salt: int) -> None:
        """
        Args:
            dim: d.
            heads: H.
            dropout: probability of dropout.
            salt: index of the block's first dropout; each dropout of the network has a different
                one.
        """
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.salt = salt
        self.norm_attention = nn.LayerNorm(dim, eps=_EPSILON)
        self.norm_forward = nn.LayerNorm(dim, eps=_EPSILON)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, dim)

        for layer in (self.query, self.key, self.value, self.inner, self.outer):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_Nd: Tensor, offsets_B1: Tensor, keys: DropoutKeys | None) -> Tensor:
        def dropped(values_Nd: Tensor, number: int) -> Tensor:
            return keyed_dropout(values_Nd, keys, self.salt + number, self.dropout)

        # SASRec's Eq. 2-4: attention
        query_Nd = self.norm_attention(x_Nd)
        parts = (self.query(query_Nd), self.key(x_Nd), self.value(x_Nd))
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        attended_Nd = softmax_attention(q, k, v, offsets_B1).flatten(1)
        h_Nd = self.norm_forward(query_Nd + dropped(attended_Nd, 0))

        # SASRec's Eq. 5-6: two layers, applied to each position separately
        inner_Nd = dropped(F.relu(self.inner(h_Nd)), 1)
        out_Nd: Tensor = h_Nd + dropped(self.outer(inner_Nd), 2)
        return out_Nd


class SASRec(nn.Module):
    """The encoder: it turns item vectors of jagged histories into one state for every position.

    Positions are counted from the start of a window. Times and events are not read.
    """

    def __init__(self, config: EncoderConfig, dim: int, context: int) -> None:
        super().__init__()
        config.check(dim)
        self.dim = dim
        self.dropout = config.dropout
        self.recompute = config.recompute
        self.position = nn.Embedding(context, dim)
        self.blocks = nn.ModuleList(
            SASRecBlock(dim, config.heads, config.dropout, salt=1 + _DROPOUTS * number)
            for number in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim, eps=_EPSILON)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, histories: Jagged) -> Tensor:
        """Returns states, [N, d]. Position i has seen items 0 to i of its history.

        Raises:
            ValueError: a history is longer than the configured context.
        """
        offsets_B1 = histories.offsets_B1
        keys = histories.dropout

        position_N = positions(offsets_B1, len(histories.vector_Nd), self.position.num_embeddings)
        x_Nd = histories.vector_Nd * self.dim**0.5 + self.position(position_N)
        x_Nd = keyed_dropout(x_Nd, keys, 0, self.dropout)

        recompute = self.recompute and torch.is_grad_enabled()
        for block in self.blocks:
            if recompute:
                # Dropout depends only on its keys, so no generator's state needs to be kept.
                x_Nd = checkpoint(
                    block, x_Nd, offsets_B1, keys, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x_Nd = block(x_Nd, offsets_B1, keys)

        state_Nd: Tensor = self.norm(x_Nd)
        return state_Nd


def load(config: EncoderConfig, dim: int, context: int, event_types: int) -> SASRec:
    """Returns SASRec. It has no options and reads only items."""
    if config.options:
        raise UserError(
            f"encoder.options: sasrec has no options: remove '{next(iter(config.options))}'"
        )
    for name in ("time_bias", "events"):
        if getattr(config, name):
            raise UserError(f"encoder.{name}: sasrec reads only items: set it to false")
    return SASRec(config, dim, context)
