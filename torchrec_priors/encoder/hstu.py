"""HSTU (Zhai et al., "Actions Speak Louder than Words", ICML 2024) on jagged tensors.

    U, V, Q, K = split(SiLU(f1(norm(x))))                    (their Eq. 1)
    A V = SiLU(alpha Q K^T + bias) V / L, causal             (their Eq. 2)
    y = x + f2(dropout(norm(A V) * U))                       (their Eq. 3)

Shapes: N tokens, d model width, H heads, D = d / H, L configured context.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.errors import UserError
from torchrec_priors.ops.hstu_attention import hstu_attention
from torchrec_priors.ops.keyed_dropout import DropoutKeys, keyed_dropout


@dataclass
class EncoderConfig:
    """HSTU.

    Attributes:
        layers: number of layers.
        heads: attention heads; must divide model.dim.
        dropout: probability, on the input and inside every layer.
    """

    layers: int = 2
    heads: int = 2
    dropout: float = 0.2

    def check(self, dim: int) -> None:
        if self.layers < 1 or self.heads < 1 or dim % self.heads:
            raise UserError(
                f"encoder.heads = {self.heads} must divide model.dim = {dim}, and encoder.layers be positive"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"encoder.dropout = {self.dropout} must be in [0, 1)")


class HSTULayer(nn.Module):
    """One layer: [N, d] -> [N, d]."""

    def __init__(self, dim: int, heads: int, context: int, dropout: float, salt: int) -> None:
        super().__init__()
        self.heads, self.context, self.dropout, self.salt = heads, context, dropout, salt
        self.norm_in = nn.LayerNorm(dim)
        self.norm_out = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 4 * dim, bias=False)
        self.project_out = nn.Linear(dim, dim)
        self.bias_HL = nn.Parameter(torch.zeros(heads, context))
        nn.init.normal_(self.project_in.weight, std=0.02)
        nn.init.xavier_uniform_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, x_Nd: Tensor, offsets_B1: Tensor, keys: DropoutKeys | None) -> Tensor:
        u, v, q, k = F.silu(self.project_in(self.norm_in(x_Nd))).chunk(4, dim=-1)
        v, q, k = (part.unflatten(-1, (self.heads, -1)) for part in (v, q, k))
        alpha = q.shape[-1] ** -0.5
        attended = hstu_attention(q, k, v, offsets_B1, self.bias_HL, float(self.context), alpha).flatten(1)
        gated = keyed_dropout(self.norm_out(attended) * u, keys, self.salt, self.dropout)
        return x_Nd + self.project_out(gated)


class HSTU(nn.Module):
    """Encoder: item vectors of jagged histories -> one state for every position.

    Positions count from the start of a window; a relative position bias per head and layer is added inside attention.
    """

    def __init__(self, config: EncoderConfig, dim: int, context: int) -> None:
        super().__init__()
        config.check(dim)
        self.dim, self.dropout = dim, config.dropout
        self.position = nn.Embedding(context, dim)
        self.layers = nn.ModuleList(
            HSTULayer(dim, config.heads, context, config.dropout, salt=number + 1) for number in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, x_Nd: Tensor, offsets_B1: Tensor, keys: DropoutKeys | None = None) -> Tensor:
        """
        Args:
            x_Nd: item vectors, history after history.
            offsets_B1: int64, where each history begins; the last entry is N.
            keys: dropout keys in training, None otherwise.

        Returns:
            [N, d] states; position i has seen items 0..i of its history.

        Raises:
            ValueError: a history longer than the configured context.
        """
        lengths_B = offsets_B1[1:] - offsets_B1[:-1]
        if len(lengths_B) and int(lengths_B.max()) > self.position.num_embeddings:
            raise ValueError(
                f"a history of {int(lengths_B.max())} exceeds the context of {self.position.num_embeddings}"
            )
        starts_N = torch.repeat_interleave(offsets_B1[:-1], lengths_B)
        position_N = torch.arange(len(x_Nd), device=x_Nd.device) - starts_N
        x_Nd = x_Nd * self.dim**0.5 + self.position(position_N)
        x_Nd = keyed_dropout(x_Nd, keys, 0, self.dropout)
        for layer in self.layers:
            x_Nd = layer(x_Nd, offsets_B1, keys)
        state_Nd: Tensor = self.norm(x_Nd)
        return state_Nd
