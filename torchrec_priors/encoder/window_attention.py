"""Attention of a language model of `transformers` over packed windows.

All windows of a batch are in one row, one after another, without padding. The models of
`transformers` call an attention function that is registered by name. Ours attends within each
window, causally. It rejects what it does not compute, so that a model is never computed wrongly.

Shapes: N tokens of all windows, H heads of queries, G heads of keys and values, D head width.
"""

from typing import Any

from torch import Tensor, nn

from torchrec_priors.errors import UserError
from torchrec_priors.ops.padded_chunks import PaddedChunks
from torchrec_priors.ops.softmax_attention import attention_in_chunks

NAME = "torchrec_priors_windows"  # of the attention function in `transformers`

# Arguments of attention functions that change nothing for windows without a cache.
_WITHOUT_EFFECT = frozenset(
    {
        "cache",
        "cache_position",
        "logits_to_keep",
        "output_attentions",
        "output_hidden_states",
        "past_key_values",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)


def window_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    windows: PaddedChunks | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Computes causal attention within each window; `transformers` calls it in every layer.

    Args:
        module: the layer's attention.
        query: [1, H, N, D].
        key, value: [1, G, N, D].
        attention_mask: None.
        scaling: factor of the products of queries and keys.
        dropout: 0.
        windows: the windows, from `attention_chunks`.
        others: arguments without an effect. All others must be None.

    Returns:
        [1, N, H, D], and None in place of the weights.

    Raises:
        UserError: the model needs a kind of attention that is not computed here.
    """
    name = type(module).__name__
    if windows is None:
        raise UserError(_reason(name, "its layers do not pass on where windows begin"))
    if attention_mask is not None:
        raise UserError(_reason(name, "it adds a mask of its own"))
    causal = others.pop("is_causal", None)
    if causal is None:
        causal = getattr(module, "is_causal", True)
    if not causal:
        raise UserError(_reason(name, "it is not causal"))
    sliding = others.pop("sliding_window", None)
    if sliding is not None and sliding < windows.longest:
        raise UserError(
            _reason(name, f"its sliding window of {sliding:,} is shorter than a history")
        )
    for argument, given in others.items():
        if given is not None and argument not in _WITHOUT_EFFECT:
            raise UserError(_reason(name, f"it has '{argument}', which is not supported"))
    assert dropout == 0.0

    # Rotated queries and keys are in float32 under autocast, and values are not.
    q_NHD, k_NGD, v_NGD = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    out_NHD = attention_in_chunks(q_NHD, k_NGD, v_NGD, windows, scaling)
    return out_NHD[None], None


def _reason(name: str, reason: str) -> str:
    """Returns a message about a model with which windows cannot be packed."""
    return f"encoder.llm: {name} cannot read packed histories ({reason}): use another model_type"
