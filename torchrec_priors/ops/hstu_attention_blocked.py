"""Jagged HSTU attention by PyTorch's own operations, block by block, forward and backward.

Sequences of about the same length are padded to a length that depends only on their own, and
computed together as far as their scores fit into the cache. Queries are multiplied in blocks with
the keys up to their end: little above the diagonal is computed. Scores are computed again in
backward; only one block of them is in memory, whatever the batch.

For one head of one sequence, with dX for the gradient of the loss by X, and * element by element:

    S = alpha Q K^T + bias                         W = SiLU(S), 0 above the diagonal
    O = W V / divisor                              G = dO / divisor
    dV = W^T G                                     dS = (G V^T) * SiLU'(S)
    dQ = alpha dS K                                dK = alpha dS^T Q
    dbias = sums of dS over all pairs of the same distance, and over those of a bucket of time

Shapes: N tokens, P padded tokens; of a chunk: n sequences of T padded tokens; of a block: R
queries, K keys; H heads, D head width, L the longest distance the bias knows, C buckets of time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from torchrec_priors.ops.padded_chunks import Chunk, PaddedChunks
from torchrec_priors.ops.time_bias import TimeBias, time_bucket

_QUERIES = 64  # of a block
_SCORES = 1 << 19  # of a block, where it has more than one sequence
_NEVER = -1e30  # as a bias: SiLU and its derivative are exactly 0


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
    """See `hstu_attention`. Computes in float32, or in float64 if the queries are."""
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
    """The number of sequences that are computed together."""
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
        # The longest distance first.
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
                of_keys = work.buffer("of_keys", len(k), keys.stop, k.shape[2])
                sum_v[:, keys] += torch.bmm(weights.transpose(1, 2), grad[:, rows], out=of_keys)
                of_scores = torch.bmm(grad[:, rows], v[:, keys].transpose(1, 2), out=weights)
                torch.ops.aten.silu_backward.grad_input(of_scores, scores, grad_input=of_scores)

                # dK is added up over blocks; dQ of these queries is complete.
                sum_k[:, keys] += torch.bmm(of_scores.transpose(1, 2), q[:, rows], out=of_keys)
                block = work.buffer("block", len(k), rows.stop - rows.start, k.shape[2])
                torch.bmm(of_scores, k[:, keys], out=block)
                torch.mul(_by_sequence(block, chunk), ctx.alpha, out=grad_q[:, :, rows])

                # dbias, by distance and by bucket of time.
                _add_diagonals(grad_HL, _by_sequence(of_scores, chunk))
                if grad_HC is not None:
                    work.add_buckets(grad_HC, _by_sequence(of_scores, chunk), chunk, rows, keys)

            torch.mul(_by_sequence(sum_k, chunk), ctx.alpha, out=grad_k)
            grad_v.copy_(_by_sequence(sum_v, chunk))

        of_q, of_k, of_v = (x.index_select(0, plan.place_N).to(q_NHD.dtype) for x in grads_PHD)
        grad_bias_HL = torch.zeros_like(bias_HL)
        grad_bias_HL[:, : plan.longest] = grad_HL.flip(1)[:, : bias_HL.shape[1]]
        grad_bias_HC = None if grad_HC is None else grad_HC.to(bias_HC.dtype)
        return of_q, of_k, of_v, grad_bias_HL, grad_bias_HC, None, None, None, None


def _blocks(padded: int) -> Iterator[tuple[slice, slice]]:
    """(queries, the keys up to their end) of each block."""
    for start in range(0, padded, _QUERIES):
        stop = min(start + _QUERIES, padded)
        yield slice(start, stop), slice(0, stop)


def _by_sequence(x: Tensor, chunk: Chunk) -> Tensor:
    return x.unflatten(0, (chunk.sequences, -1))


def _add_diagonals(grad_HL: Tensor, of_scores_nHRK: Tensor) -> None:
    """Adds the sums over each diagonal, the last query's distance to the first key first.

    If row i is moved i places to the left, diagonals are columns. That is a view: a row that is
    read before its first number continues at the end of the row above, where everything above the
    diagonal is 0.
    """
    sequences, heads, queries, keys = of_scores_nHRK.shape
    first = keys - queries + 1
    grad_HL[:, -first:] += of_scores_nHRK[:, :, 0, :first].sum(0)
    if queries > 1:
        moved = of_scores_nHRK.as_strided(
            (sequences, heads, queries - 1, keys),
            (heads * queries * keys, queries * keys, keys + 1, 1),
            of_scores_nHRK.storage_offset() + keys + 2 - queries,
        )
        grad_HL[:, -keys:] += moved.sum((0, 2))


class _Work:
    """Scratch of one pass, which every block uses again, and the scores of a block."""

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
        """Bias of every query of a block for the keys from `longest` before the block to its
        end.
        """
        query = torch.arange(min(_QUERIES, self.plan.longest), device=self.device)
        key = torch.arange(-self.plan.longest, len(query), device=self.device)
        distance_RL = query[:, None] - key
        near = distance_RL.clamp(0, max(bias_HL.shape[1] - 1, 0))
        bias = bias_HL.to(self.dtype).index_select(1, near.flatten()).unflatten(1, near.shape)
        return bias.masked_fill_(distance_RL < 0, _NEVER)

    def buffer(self, name: str, *shape: int) -> Tensor:
        """A tensor of a shape, with whatever is in it; the next call with the same name may
        overwrite it.
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
        """[n * H, T, D]: a chunk's tokens, multiplied by `scale_P` if given."""
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
        """alpha q.k + bias: [n * H, R, K]."""
        scores = self.buffer("scores", len(q), rows.stop - rows.start, keys.stop)
        begin = self.plan.longest - rows.start
        scores_nHRK = _by_sequence(scores, chunk)
        scores_nHRK.copy_(self.bias_HRL[:, : scores.shape[1], begin : begin + keys.stop])
        if self.bias_HC is not None:
            bucket_nRK = self._buckets(chunk, rows, keys)
            of_time = self.bias_HC.index_select(1, bucket_nRK.flatten()).unflatten(
                1, bucket_nRK.shape
            )
            scores_nHRK += of_time.transpose(0, 1)
        return scores.baddbmm_(q[:, rows], k[:, keys].transpose(1, 2), alpha=self.alpha)

    def add_buckets(
        self, grad_HC: Tensor, of_scores_nHRK: Tensor, chunk: Chunk, rows: slice, keys: slice
    ) -> None:
        """Adds the sums over each bucket of time."""
        bucket = self._buckets(chunk, rows, keys).flatten()
        of_scores = of_scores_nHRK.transpose(0, 1).flatten(1)
        grad_HC += torch.zeros_like(grad_HC).scatter_add_(1, bucket.expand_as(of_scores), of_scores)

    def _buckets(self, chunk: Chunk, rows: slice, keys: slice) -> Tensor:
        assert self.time_N is not None
        time_nT = self.time_N[self.plan.token_P[chunk.rows]].view(chunk.sequences, chunk.padded)
        return time_bucket(time_nT[:, rows, None] - time_nT[:, None, keys])
