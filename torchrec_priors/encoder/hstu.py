"""HSTU (Zhai et al., "Actions Speak Louder than Words", ICML 2024) on jagged tensors.

    U, V, Q, K = split(SiLU(f1(norm(x))))               (HSTU's Eq. 1)
    A V = SiLU(Q K^T / sqrt(D) + bias) V / L, causal    (HSTU's Eq. 2)
    y = x + f2(dropout(norm(A V) * U))                  (HSTU's Eq. 3)

f1 and f2 are linear layers. The bias depends on the distance between two positions and, optionally,
on the time between them.

Eq. 2 as printed has neither 1 / sqrt(D) nor 1 / L. We divide by the configured L, not by the
length of a history or a batch, so a state does not depend on the rest of the batch.

Shapes: N tokens, d model width, H heads, D = d / H, L configured context.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.encoder.positions import positions
from torchrec_priors.errors import UserError
from torchrec_priors.ops.gated_norm import MOST_WIDTH, gated_norm
from torchrec_priors.ops.gpu_kernel import has_kernels
from torchrec_priors.ops.hstu_attention import hstu_attention
from torchrec_priors.ops.hstu_attention_gpu import longest_first
from torchrec_priors.ops.hstu_layer_native import (
    LayerParameters,
    LayerSequences,
    has_native_layer,
    hstu_layer_native,
)
from torchrec_priors.ops.keyed_dropout import DropoutKeys, dropout_mask, keyed_dropout
from torchrec_priors.ops.time_bias import TIME_BUCKETS, TimeBias
from torchrec_priors.settings.encoder import EncoderConfig


class HSTULayer(nn.Module):
    """One layer, from [N, d] to [N, d]."""

    def __init__(
        self, dim: int, heads: int, context: int, dropout: float, salt: int, time_bias: bool
    ) -> None:
        """
        Args:
            dim: d.
            heads: H.
            context: L.
            dropout: probability of dropout.
            salt: index of this layer's dropout; each dropout of the network has a different one.
            time_bias: whether attention has a time bias in addition to the bias of distance.
        """
        super().__init__()
        self.heads = heads
        self.context = context
        self.dropout = dropout
        self.salt = salt
        self.norm_in = nn.LayerNorm(dim)
        self.norm_out = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 4 * dim, bias=False)
        self.project_out = nn.Linear(dim, dim)
        self.bias_HL = nn.Parameter(torch.zeros(heads, context))
        self.bias_HC = nn.Parameter(torch.zeros(heads, TIME_BUCKETS)) if time_bias else None

        nn.init.normal_(self.project_in.weight, std=0.02)
        nn.init.xavier_uniform_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)

    def forward(
        self,
        x_Nd: Tensor,
        offsets_B1: Tensor,
        time_N: Tensor | None,
        keys: DropoutKeys | None,
        order_B: Tensor | None = None,
    ) -> Tensor:
        if has_native_layer(x_Nd):
            return self._native(x_Nd, offsets_B1, time_N, keys)

        # HSTU's Eq. 1
        u, v, q, k = F.silu(self.project_in(self.norm_in(x_Nd))).chunk(4, dim=-1)
        v, q, k = (part.unflatten(-1, (self.heads, -1)) for part in (v, q, k))

        # HSTU's Eq. 2
        alpha = q.shape[-1] ** -0.5
        times = None
        if self.bias_HC is not None and time_N is not None:
            times = TimeBias(time_N, self.bias_HC)
        attended_NHD = hstu_attention(
            q, k, v, offsets_B1, self.bias_HL, float(self.context), alpha, times, order_B
        )

        # HSTU's Eq. 3
        gated_Nd = self._gate(attended_NHD.flatten(1), u, keys)
        return x_Nd + self.project_out(gated_Nd)

    def _native(
        self,
        x_Nd: Tensor,
        offsets_B1: Tensor,
        time_N: Tensor | None,
        keys: DropoutKeys | None,
    ) -> Tensor:
        """Computes the layer with the kernels for CPUs."""
        norm_in = self.norm_in
        norm_out = self.norm_out
        project_out = self.project_out
        parameters = LayerParameters(
            (norm_in.weight, norm_in.bias),
            self.project_in.weight,
            self.bias_HL,
            None if time_N is None else self.bias_HC,
            (norm_out.weight, norm_out.bias),
            (project_out.weight, project_out.bias),
        )
        keep_Nd = dropout_mask(x_Nd, keys, self.salt, self.dropout)
        used_time_N = None if parameters.bias_HC is None else time_N
        sequences = LayerSequences(
            offsets_B1, used_time_N, keep_Nd, float(self.context), norm_in.eps
        )
        return hstu_layer_native(x_Nd, parameters, sequences)

    def _gate(self, attended_Nd: Tensor, u_Nd: Tensor, keys: DropoutKeys | None) -> Tensor:
        """Returns dropout(norm(A V) * U)."""
        norm = self.norm_out
        if has_kernels(attended_Nd) and attended_Nd.shape[1] <= MOST_WIDTH:
            return gated_norm(
                attended_Nd, u_Nd, norm.weight, norm.bias, norm.eps, keys, self.salt, self.dropout
            )
        return keyed_dropout(norm(attended_Nd) * u_Nd, keys, self.salt, self.dropout)


class HSTU(nn.Module):
    """The encoder: it turns item vectors of jagged histories into one state for every position.

    Positions are counted from the start of a window. In addition, each attention head of each layer
    has a bias for every distance between two positions.
    """

    def __init__(self, config: EncoderConfig, dim: int, context: int, event_types: int = 0) -> None:
        """
        Args:
            config: the section `encoder` of the configuration.
            dim: d.
            context: L.
            event_types: number of event types of the data set; needed if `config.events` is true.
        """
        super().__init__()
        config.check(dim)
        self.dim = dim
        self.dropout = config.dropout
        self.recompute = config.recompute

        self.position = nn.Embedding(context, dim)
        self.event = nn.Embedding(event_types, dim) if config.events else None
        self.layers = nn.ModuleList(
            HSTULayer(
                dim,
                config.heads,
                context,
                config.dropout,
                salt=number + 1,
                time_bias=config.time_bias,
            )
            for number in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim)

        nn.init.normal_(self.position.weight, std=0.02)
        if self.event is not None:
            nn.init.normal_(self.event.weight, std=0.02)

    def forward(self, histories: Jagged) -> Tensor:
        """Returns states, [N, d]. Position i has seen items 0 to i of its history.

        If the histories have no times, there is no time bias; if they have no events, no event
        vectors are added.

        Raises:
            ValueError: a history is longer than the configured context.
        """
        offsets_B1 = histories.offsets_B1
        keys = histories.dropout

        # The input: item vectors with positions and, if they are used, event types.
        position_N = positions(offsets_B1, len(histories.vector_Nd), self.position.num_embeddings)
        x_Nd = histories.vector_Nd * self.dim**0.5 + self.position(position_N)
        if self.event is not None and histories.event_N is not None:
            x_Nd = x_Nd + self.event(histories.event_N)
        x_Nd = keyed_dropout(x_Nd, keys, 0, self.dropout)

        # `positions` has checked that no history is too long.
        order_B = longest_first(offsets_B1)
        recompute = self.recompute and torch.is_grad_enabled()
        for layer in self.layers:
            arguments = (x_Nd, offsets_B1, histories.time_N, keys, order_B)
            if recompute:
                # Dropout depends only on its keys, so no generator's state needs to be kept.
                x_Nd = checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                x_Nd = layer(*arguments)

        state_Nd: Tensor = self.norm(x_Nd)
        return state_Nd


def load(config: EncoderConfig, dim: int, context: int, event_types: int) -> HSTU:
    """Returns HSTU. It has no options."""
    if config.options:
        raise UserError(
            f"encoder.options: hstu has no options: remove '{next(iter(config.options))}'"
        )
    return HSTU(config, dim, context, event_types)
