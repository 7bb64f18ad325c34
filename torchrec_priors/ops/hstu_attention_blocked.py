"""Jagged HSTU attention from PyTorch's operations, block by block, forward and backward.

Sequences of similar lengths are padded to the same length, which does not depend on the rest of the
batch. They are computed in chunks, each small enough for a block's scores to fit into the cache. A
block of queries is multiplied by the keys up to the end of the block, so little above the diagonal
is computed. Scores are computed again in backward: only one block of them is in memory at a time,
however large the batch is.

These are the equations for one head of one sequence. dX is the gradient of the loss with respect to
X, and * multiplies element by element:

    S = alpha Q K^T + bias                         W = SiLU(S), 0 above the diagonal
    O = W V / divisor                              G = dO / divisor
    dV = W^T G                                     dS = (G V^T) * SiLU'(S)
    dQ = alpha dS K                                dK = alpha dS^T Q
    dbias = sums of dS over all pairs of a distance, and over all pairs of a bucket of time

Shapes: N tokens, P padded tokens; within a chunk, n sequences of T padded tokens; within a block,
R queries and K keys; H heads, D head width, L distances that have a bias, C buckets of time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from torchrec_priors.ops.padded_chunks import Chunk, PaddedChunks
from torchrec_priors.ops.time_bias import TimeBias, time_bucket

_QUERIES = 64  # in a block
_SCORES = 1 << 19  # in a block; a block of a single sequence may have more
_NEVER = -1e30  # a bias with which SiLU and its derivative are exactly 0


def hstu_attention_blocked(
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    offsets_B1: Tensor,
    bias_HL: Tensor,
    divisor: float,
    alpha: float,
    times: TimeBias | None = None,
) -> Tensor:
    """See `hstu_attention`. Computes in float32, or in float64 if the queries are float64."""
    lengths = (offsets_B1[1:] - offsets_B1[:-1]).tolist()
    if max(lengths, default=0) > bias_HL.shape[1]:
        raise ValueError(
            f"a sequence of {max(lengths)} tokens is longer than the configured {bias_HL.shape[1]}"
        )

    plan = PaddedChunks.of(lengths, offsets_B1, lambda padded: _sequences(padded, q_NHD.shape[1]))
    time_N = None if times is None else times.time_N
    bias_HC = None if times is None else times.bias_HC
    out_NHD: Tensor = _Attention.apply(
        q_NHD, k_NHD, v_NHD, bias_HL, bias_HC, time_N, plan, divisor, alpha
    )
    return out_NHD


def _sequences(padded: int, heads: int) -> int:
    """Returns how many sequences of a padded length are computed together."""
    return max(1, _SCORES // (heads * min(_QUERIES, padded) * padded))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_NHD: Tensor,
        k_NHD: Tensor,
        v_NHD: Tensor,
        bias_HL: Tensor,
        bias_HC: Tensor | None,
        time_N: Tensor | None,
        plan: PaddedChunks,
        divisor: float,
        alpha: float,
    ) -> Tensor:
        ctx.save_for_backward(q_NHD, k_NHD, v_NHD, bias_HL, bias_HC, time_N)
        ctx.plan = plan
        ctx.divisor = divisor
        ctx.alpha = alpha

        work = _Work(plan, q_NHD, bias_HL, bias_HC, time_N, alpha)
        out_PHD = work.buffer("out", len(plan.token_P), *v_NHD.shape[1:])
        for chunk in plan.chunks:
            q, k, v = (
                work.gather(name, x, chunk)
                for name, x in (("q", q_NHD), ("k", k_NHD), ("v", v_NHD))
            )
            out_nTHD = out_PHD[chunk.rows].unflatten(0, (chunk.sequences, chunk.padded))

            # S of a block becomes W in place; W V is the block's part of O.
            for rows, keys in _blocks(chunk.padded):
                weights = torch.ops.aten.silu_(work.scores(q, k, chunk, rows, keys))
                block = work.buffer("block", len(v), rows.stop - rows.start, v.shape[2])
                torch.bmm(weights, v[:, keys], out=block)
                block_nRHD = _by_sequence(block, chunk).transpose(1, 2)
                torch.mul(block_nRHD, 1 / divisor, out=out_nTHD[:, rows])

        return out_PHD.index_select(0, plan.place_N).to(v_NHD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_NHD, k_NHD, v_NHD, bias_HL, bias_HC, time_N = ctx.saved_tensors
        plan: PaddedChunks = ctx.plan
        work = _Work(plan, q_NHD, bias_HL, bias_HC, time_N, ctx.alpha)
        scale_P = plan.filled_P.to(work.dtype).div_(ctx.divisor)
        grads_PHD = [
            work.buffer(f"grad_{name}", len(plan.token_P), *q_NHD.shape[1:]) for name in "qkv"
        ]
        # Columns start with the longest distance (see `_add_diagonals`).
        grad_HL = q_NHD.new_zeros(len(bias_HL), plan.longest, dtype=work.dtype)
        grad_HC = None if bias_HC is None else torch.zeros_like(bias_HC, dtype=work.dtype)

        for chunk in plan.chunks:
            q, k, v = (
                work.gather(name, x, chunk)
                for name, x in (("q", q_NHD), ("k", k_NHD), ("v", v_NHD))
            )
            grad = work.gather("grad", grads[0], chunk, scale_P)
            grad_q, grad_k, grad_v = (
                x[chunk.rows].unflatten(0, (chunk.sequences, chunk.padded)).transpose(1, 2)
                for x in grads_PHD
            )
            sum_k = work.buffer("sum_k", *k.shape).zero_()
            sum_v = work.buffer("sum_v", *k.shape).zero_()

            for rows, keys in _blocks(chunk.padded):
                # S and W are computed again: they were not kept.
                scores = work.scores(q, k, chunk, rows, keys)
                weights = torch.ops.aten.silu.out(scores, out=work.buffer("weights", *scores.shape))

                # dV is added up; dS overwrites W, which is not needed any more.
                key_sums = work.buffer("key_sums", len(k), keys.stop, k.shape[2])
                sum_v[:, keys] += torch.bmm(weights.transpose(1, 2), grad[:, rows], out=key_sums)
                grad_scores = torch.bmm(grad[:, rows], v[:, keys].transpose(1, 2), out=weights)
                torch.ops.aten.silu_backward.grad_input(grad_scores, scores, grad_input=grad_scores)

                # dK is added up; dQ of these queries is complete.
                sum_k[:, keys] += torch.bmm(grad_scores.transpose(1, 2), q[:, rows], out=key_sums)
                block = work.buffer("block", len(k), rows.stop - rows.start, k.shape[2])
                torch.bmm(grad_scores, k[:, keys], out=block)
                torch.mul(_by_sequence(block, chunk), ctx.alpha, out=grad_q[:, :, rows])

                # dbias, by distance and by bucket of time.
                _add_diagonals(grad_HL, _by_sequence(grad_scores, chunk))
                if grad_HC is not None:
                    work.add_buckets(grad_HC, _by_sequence(grad_scores, chunk), chunk, rows, keys)

            torch.mul(_by_sequence(sum_k, chunk), ctx.alpha, out=grad_k)
            grad_v.copy_(_by_sequence(sum_v, chunk))

        grads_NHD = [x.index_select(0, plan.place_N).to(q_NHD.dtype) for x in grads_PHD]
        grad_bias_HL = torch.zeros_like(bias_HL)
        grad_bias_HL[:, : plan.longest] = grad_HL.flip(1)[:, : bias_HL.shape[1]]
        grad_bias_HC = None if grad_HC is None else grad_HC.to(bias_HC.dtype)
        return *grads_NHD, grad_bias_HL, grad_bias_HC, None, None, None, None


def _blocks(padded: int) -> Iterator[tuple[slice, slice]]:
    """Yields the queries of each block, and the keys up to the end of these queries."""
    for start in range(0, padded, _QUERIES):
        stop = min(start + _QUERIES, padded)
        yield slice(start, stop), slice(0, stop)


def _by_sequence(x: Tensor, chunk: Chunk) -> Tensor:
    """Returns a view [n, H, ...] of [n * H, ...]."""
    return x.unflatten(0, (chunk.sequences, -1))


def _add_diagonals(grad_HL: Tensor, grad_scores_nHRK: Tensor) -> None:
    """Adds the sum of each diagonal to `grad_HL`.

    All cells of a diagonal have the same distance. The longest distance, from the last query to
    the first key, comes first. If row i is shifted i places to the left, diagonals become columns.
    This needs only a view with longer strides. In the view, the cells left of a row's first number
    are the end of the row above; they are above the diagonal and therefore 0.
    """
    sequences, heads, queries, keys = grad_scores_nHRK.shape
    first = keys - queries + 1
    grad_HL[:, -first:] += grad_scores_nHRK[:, :, 0, :first].sum(0)
    if queries > 1:
        moved = grad_scores_nHRK.as_strided(
            (sequences, heads, queries - 1, keys),
            (heads * queries * keys, queries * keys, keys + 1, 1),
            grad_scores_nHRK.storage_offset() + keys + 2 - queries,
        )
        grad_HL[:, -keys:] += moved.sum((0, 2))


class _Work:
    """Computes the scores of blocks. Its scratch memory serves all blocks of a pass."""

    def __init__(
        self,
        plan: PaddedChunks,
        q_NHD: Tensor,
        bias_HL: Tensor,
        bias_HC: Tensor | None,
        time_N: Tensor | None,
        alpha: float,
    ) -> None:
        self.dtype = torch.float64 if q_NHD.dtype == torch.float64 else torch.float32
        self.device = q_NHD.device
        self.plan = plan
        self.alpha = alpha
        self.time_N = time_N
        self.bias_HC = None if bias_HC is None else bias_HC.to(self.dtype)
        self._flat: dict[str, Tensor] = {}
        self.bias_HRL = self._bias(bias_HL)

    def _bias(self, bias_HL: Tensor) -> Tensor:
        """Returns the biases of a block's queries, [H, R, keys].

        Keys range from `longest` tokens before the block to its end, so each block finds its biases
        in a slice.
        """
        query = torch.arange(min(_QUERIES, self.plan.longest), device=self.device)
        key = torch.arange(-self.plan.longest, len(query), device=self.device)
        distance_RL = query[:, None] - key
        near = distance_RL.clamp(0, max(bias_HL.shape[1] - 1, 0))
        bias = bias_HL.to(self.dtype).index_select(1, near.flatten()).unflatten(1, near.shape)
        return bias.masked_fill_(distance_RL < 0, _NEVER)

    def buffer(self, name: str, *shape: int) -> Tensor:
        """Returns a tensor of a shape, uninitialised.

        The next call with the same name may overwrite it.
        """
        size = 1
        for length in shape:
            size *= length
        flat = self._flat.get(name)
        if flat is None or len(flat) < size:
            flat = self._flat[name] = torch.empty(size, dtype=self.dtype, device=self.device)
        return flat[:size].view(shape)

    def gather(
        self, name: str, x_NHD: Tensor, chunk: Chunk, scale_P: Tensor | None = None
    ) -> Tensor:
        """Returns the tokens of a chunk, [n * H, T, D], multiplied by `scale_P` if given."""
        _, heads, width = x_NHD.shape
        rows = x_NHD.flatten(1).index_select(0, self.plan.token_P[chunk.rows])
        rows_nHTD = rows.view(chunk.sequences, chunk.padded, heads, width).transpose(1, 2)
        out = self.buffer(name, chunk.sequences, heads, chunk.padded, width)
        if scale_P is None:
            out.copy_(rows_nHTD)
        else:
            torch.mul(
                rows_nHTD, scale_P[chunk.rows].view(chunk.sequences, 1, chunk.padded, 1), out=out
            )
        return out.flatten(0, 1)

    def scores(self, q: Tensor, k: Tensor, chunk: Chunk, rows: slice, keys: slice) -> Tensor:
        """Returns alpha q.k + bias of a block, [n * H, R, K]."""
        scores = self.buffer("scores", len(q), rows.stop - rows.start, keys.stop)
        begin = self.plan.longest - rows.start
        scores_nHRK = _by_sequence(scores, chunk)
        scores_nHRK.copy_(self.bias_HRL[:, : scores.shape[1], begin : begin + keys.stop])
        if self.bias_HC is not None:
            bucket_nRK = self._buckets(chunk, rows, keys)
            time_scores = self.bias_HC.index_select(1, bucket_nRK.flatten()).unflatten(
                1, bucket_nRK.shape
            )
            scores_nHRK += time_scores.transpose(0, 1)
        return scores.baddbmm_(q[:, rows], k[:, keys].transpose(1, 2), alpha=self.alpha)

    def add_buckets(
        self, grad_HC: Tensor, grad_scores_nHRK: Tensor, chunk: Chunk, rows: slice, keys: slice
    ) -> None:
        """Adds the gradients of scores, summed over each bucket of time, to `grad_HC`."""
        bucket = self._buckets(chunk, rows, keys).flatten()
        grad_scores = grad_scores_nHRK.transpose(0, 1).flatten(1)
        grad_HC += torch.zeros_like(grad_HC).scatter_add_(
            1, bucket.expand_as(grad_scores), grad_scores
        )

    def _buckets(self, chunk: Chunk, rows: slice, keys: slice) -> Tensor:
        """Returns the bucket of time of each query and key, [n, R, K]."""
        assert self.time_N is not None
        time_nT = self.time_N[self.plan.token_P[chunk.rows]].view(chunk.sequences, chunk.padded)
        return time_bucket(time_nT[:, rows, None] - time_nT[:, None, keys])
