"""Jagged causal softmax attention (Vaswani et al., 2017, Eq. 1), as in SASRec and language models.

    out_i = sum_{j <= i} softmax_j(q_i . k_j / sqrt(D)) v_j    within each sequence

Language models also have attention with grouped queries: there are fewer heads of keys and values
than of queries, and each of them serves several heads of queries (Ainslie et al., "GQA", 2023).

Shapes: N tokens in B sequences, H heads of queries, G heads of keys and values, D head width;
within a chunk, n sequences of T padded tokens.
"""

import itertools
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.ops.padded_chunks import PaddedChunks


def softmax_attention_reference(
    q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, offsets_B1: Tensor
) -> Tensor:
    """The definition, sequence by sequence. Same arguments and result as `softmax_attention`."""
    outputs = []
    for start, end in itertools.pairwise(offsets_B1.tolist()):
        products = torch.einsum("ihd,jhd->hij", q_NHD[start:end], k_NHD[start:end])
        scores = products / q_NHD.shape[2] ** 0.5

        later = torch.ones(end - start, end - start, dtype=torch.bool, device=scores.device).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(2)
        outputs.append(torch.einsum("hij,jhd->ihd", weights, v_NHD[start:end]))
    return torch.cat(outputs) if outputs else v_NHD


def softmax_attention(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, offsets_B1: Tensor) -> Tensor:
    """Causal softmax attention within each sequence of a jagged batch, by PyTorch's fused kernels.

    Sequences of similar lengths are padded to the same length. Padding is at the end, where no
    query of the sequence sees it, so it needs no mask. (PyTorch's nested tensors have no causal
    attention on a CPU.)

    Args:
        q_NHD, k_NHD, v_NHD: queries, keys and values of all tokens, sequence after sequence.
        offsets_B1: int64 [B + 1], first token of each sequence; the last entry is N.

    Returns:
        [N, H, D].
    """
    return attention_in_chunks(q_NHD, k_NHD, v_NHD, attention_chunks(offsets_B1))


def attention_chunks(offsets_B1: Tensor) -> PaddedChunks:
    """Returns the sequences of a batch in chunks, for all layers of a network.

    Args:
        offsets_B1: int64 [B + 1], first token of each sequence; the last entry is N.
    """
    return PaddedChunks.of(offsets_B1.diff().tolist(), offsets_B1, lambda _padded: sys.maxsize)


def attention_in_chunks(
    q_NHD: Tensor,
    k_NGD: Tensor,
    v_NGD: Tensor,
    plan: PaddedChunks,
    scale: float | None = None,
) -> Tensor:
    """Computes `softmax_attention`, also with grouped queries.

    Args:
        q_NHD, k_NGD, v_NGD: queries, keys and values of all tokens, sequence after sequence. H is a
            multiple of G.
        plan: the sequences, from `attention_chunks`.
        scale: factor of the products of queries and keys; 1 / sqrt(D) by default.

    Returns:
        [N, H, D].
    """
    queries_of_key = q_NHD.shape[1] // k_NGD.shape[1]
    if not plan.chunks:
        # So that queries and keys have (empty) gradients.
        nothing_NGD = 0.0 * k_NGD + v_NGD
        return 0.0 * q_NHD + nothing_NGD.repeat_interleave(queries_of_key, dim=1)

    q_PHD, k_PGD, v_PGD = (x.index_select(0, plan.token_P) for x in (q_NHD, k_NGD, v_NGD))
    outputs = []
    for chunk in plan.chunks:
        q, k, v = (
            x[chunk.rows].unflatten(0, (chunk.sequences, chunk.padded)).transpose(1, 2)
            for x in (q_PHD, k_PGD, v_PGD)
        )
        if queries_of_key > 1:
            k = k.repeat_interleave(queries_of_key, dim=1)
            v = v.repeat_interleave(queries_of_key, dim=1)
        out_nHTD = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        outputs.append(out_nHTD.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, plan.place_N)
