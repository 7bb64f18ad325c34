"""Jagged HSTU attention by Triton kernels, fused in forward and backward.

Nothing of size [T, T] is in memory, for a sequence of T tokens. A program computes one block of
queries (or of keys, for the gradients of keys and values) of one head of one sequence. The longest
sequences, and their blocks with the most work, come first; blocks above the diagonal are not
visited. Factors of products have the type of the inputs, and sums are in float32.

There are no atomics, so a repeated step gives the same bits: one kernel computes the gradients of
queries, and another those of keys and values. For the biases, each block of queries stores its part
of the gradients ([H, L / 64, N] and [B, H, L / 64, C] floats), and the parts are summed in order.
`hstu_attention_blocked.py` lists the equations of the gradients.

Shapes: N tokens in B sequences, H heads, D head width, L distances that have a bias, C buckets of
time.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels have no annotations: Triton reads the types of the arguments at each call.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrec_priors.ops.hstu_attention_gpu import Saved
from torchrec_priors.ops.time_bias import TIME_BUCKETS

BLOCK = 64
_BUCKETS = tl.constexpr(TIME_BUCKETS)
_BUCKETS_PADDED = tl.constexpr(64)  # Triton's ranges have powers of two as lengths


@triton.jit
def _block(offsets, order, heads, blocks, BLOCK: tl.constexpr):
    """Returns the block that this program computes, as five numbers.

    They are the sequence, the head, the first position of the block, the first token of the
    sequence, and the length of the sequence. Late positions come first: they have the most work,
    because they see the most keys.
    """
    pid = tl.program_id(0)
    sequence = tl.load(order + pid // (heads * blocks))
    head = pid // blocks % heads
    first = (blocks - 1 - pid % blocks) * BLOCK
    start = tl.load(offsets + sequence)
    return sequence, head, first, start, (tl.load(offsets + sequence + 1) - start).to(tl.int32)


@triton.jit
def _rows(base, position, length, token, width, WIDTH: tl.constexpr):
    """Loads positions of a sequence, [BLOCK, WIDTH].

    Beyond the end of the sequence and the width of the head, numbers are 0.
    """
    column = tl.arange(0, WIDTH)
    exists = (position < length)[:, None] & (column < width)[None, :]
    return tl.load(
        base + position.to(tl.int64)[:, None] * token + column[None, :], mask=exists, other=0.0
    )


@triton.jit
def _store_rows(base, rows, position, length, token, width, WIDTH: tl.constexpr):
    """Stores positions of a sequence, up to its end and up to the width of the head."""
    column = tl.arange(0, WIDTH)
    exists = (position < length)[:, None] & (column < width)[None, :]
    tl.store(
        base + position.to(tl.int64)[:, None] * token + column[None, :],
        rows.to(base.dtype.element_ty),
        mask=exists,
    )


@triton.jit
def _bucket(query_time, key_time):
    """Returns `time_bucket` of the differences in time."""
    gap = tl.maximum(query_time - key_time, 0)
    bits = (gap // 1000 + 1).to(tl.float64).to(tl.int64, bitcast=True)
    return tl.minimum((bits >> 52) - 1023, _BUCKETS - 1).to(tl.int32)


@triton.jit
def _biases(bias, times, time_bias, query, key, length, TIMED: tl.constexpr):
    """Returns what is added to q.k, and whether the query sees the key.

    Both have the shape to which `query` and `key` broadcast.
    """
    distance = query - key
    seen = (distance >= 0) & (query < length)
    value = tl.load(bias + distance, mask=seen, other=0.0).to(tl.float32)
    if TIMED:
        query_time = tl.load(times + query, mask=query < length, other=0)
        key_time = tl.load(times + key, mask=key < length, other=0)
        value += tl.load(time_bias + _bucket(query_time, key_time)).to(tl.float32)
    return value, seen


@triton.jit
def _forward(
    q, k, v, out, bias, times, time_bias, offsets, order,
    q_token, q_head, k_token, k_head, v_token, v_head, out_token, out_head,
    heads, blocks, longest, width, alpha, scale,
    TIMED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes the output of a block of queries."""
    _, head, first, start, length = _block(offsets, order, heads, blocks, BLOCK)
    # There are programs for L positions of every sequence, but most sequences are shorter.
    if first >= length:
        return

    q += start * q_token + head * q_head
    k += start * k_token + head * k_head
    v += start * v_token + head * v_head
    query = first + tl.arange(0, BLOCK)
    queries = _rows(q, query, length, q_token, width, WIDTH)

    total = tl.zeros([BLOCK, WIDTH], tl.float32)
    for begin in range(0, first + BLOCK, BLOCK):
        key = begin + tl.arange(0, BLOCK)
        keys = _rows(k, key, length, k_token, width, WIDTH)
        added, seen = _biases(
            bias + head * longest,
            times + start,
            time_bias + head * _BUCKETS,
            query[:, None],
            key[None, :],
            length,
            TIMED,
        )

        # SiLU(s) = s / (1 + e^-s)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * alpha + added
        weights = tl.where(seen, scores / (1.0 + tl.exp(-scores)), 0.0)
        values = _rows(v, key, length, v_token, width, WIDTH)
        total = tl.dot(weights.to(values.dtype), values, total, input_precision=PRECISION)

    out += start * out_token + head * out_head
    _store_rows(out, total * scale, query, length, out_token, width, WIDTH)


@triton.jit
def _backward_queries(
    q, k, v, grad, grad_q, distance_sums, time_sums, bias, times, time_bias, offsets, order,
    q_token, q_head, k_token, k_head, v_token, v_head, out_token, out_head,
    heads, blocks, longest, width, tokens, alpha, scale,
    TIMED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of a block of queries, and the block's part of the biases' gradients.

    The gradients of the scores are summed over each distance between query and key, and over each
    bucket of time. The sums go to `distance_sums` and `time_sums`.
    """
    sequence, head, first, start, length = _block(offsets, order, heads, blocks, BLOCK)
    # There are programs for L positions of every sequence, but most sequences are shorter.
    if first >= length:
        return

    # Each pointer moves to this program's sequence, head and block.
    q += start * q_token + head * q_head
    k += start * k_token + head * k_head
    v += start * v_token + head * v_head
    grad += start * out_token + head * out_head
    distance_sums += (head * blocks + first // BLOCK).to(tl.int64) * tokens + start

    row = tl.arange(0, BLOCK)
    query = first + row
    queries = _rows(q, query, length, q_token, width, WIDTH)
    grads = _rows(grad, query, length, out_token, width, WIDTH)
    total = tl.zeros([BLOCK, WIDTH], tl.float32)

    # A distance is a diagonal of the scores. If row i is rotated i places to the left, diagonals
    # become columns. A column has two parts: cells `inside`, and cells that were rotated around the
    # end. The distance of the latter is greater by BLOCK: it is that of the cells `inside` of the
    # previous block of keys. So the sums of these two are added.
    moved = (row[:, None] + row[None, :]) % BLOCK
    inside = row[:, None] + row[None, :] < BLOCK
    farther = tl.zeros([BLOCK], tl.float32)  # the `inside` sums of the previous block of keys
    bucket_sums = tl.zeros([_BUCKETS_PADDED], tl.float32)

    for begin in range(0, first + BLOCK, BLOCK):
        key = begin + row
        keys = _rows(k, key, length, k_token, width, WIDTH)
        values = _rows(v, key, length, v_token, width, WIDTH)

        # The scores are computed again, as nothing of their size was kept.
        added, seen = _biases(
            bias + head * longest,
            times + start,
            time_bias + head * _BUCKETS,
            query[:, None],
            key[None, :],
            length,
            TIMED,
        )
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * alpha + added

        # The derivative of SiLU(s) is sigmoid(s) (1 + s (1 - sigmoid(s))).
        sigmoid = 1.0 / (1.0 + tl.exp(-scores))
        grad_weights = tl.dot(grads, tl.trans(values), input_precision=PRECISION) * scale
        grad_scores = tl.where(seen, grad_weights * sigmoid * (1.0 + scores * (1.0 - sigmoid)), 0.0)
        total = tl.dot(grad_scores.to(keys.dtype), keys, total, input_precision=PRECISION)

        # With this block, the diagonals that the previous block began are complete.
        diagonals = tl.gather(grad_scores, moved, 1)
        around = tl.sum(tl.where(inside, 0.0, diagonals), 0)
        distance = first - begin + BLOCK - row
        tl.store(distance_sums + distance, farther + around, mask=distance < length)
        farther = tl.sum(tl.where(inside, diagonals, 0.0), 0)

        # Only the buckets from the block's smallest to its largest are summed, usually only a few.
        if TIMED:
            query_time = tl.load(times + start + query, mask=query < length, other=0)
            key_time = tl.load(times + start + key, mask=key < length, other=0)
            bucket = _bucket(query_time[:, None], key_time[None, :])
            for number in range(tl.min(bucket), tl.max(bucket) + 1):
                bucket_sum = tl.sum(tl.where(bucket == number, grad_scores, 0.0))
                bucket_sums += tl.where(tl.arange(0, _BUCKETS_PADDED) == number, bucket_sum, 0.0)

    # In the last block of keys, only the main diagonal is left. It has distance 0.
    tl.store(distance_sums - row, farther, mask=row == 0)
    grad_q += start * out_token + head * out_head
    _store_rows(grad_q, total * alpha, query, length, out_token, width, WIDTH)

    if TIMED:
        at = time_sums + ((sequence * heads + head) * blocks + first // BLOCK) * _BUCKETS
        number = tl.arange(0, _BUCKETS_PADDED)
        tl.store(at + number, bucket_sums, mask=number < _BUCKETS)


@triton.jit
def _backward_keys(
    q, k, v, grad, grad_k, grad_v, bias, times, time_bias, offsets, order,
    q_token, q_head, k_token, k_head, v_token, v_head, out_token, out_head,
    heads, blocks, longest, width, alpha, scale,
    TIMED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of a block of keys and values: sums over the queries that see them."""
    # Here early positions come first: they have the most work, because the most queries see them.
    _, head, place, start, length = _block(offsets, order, heads, blocks, BLOCK)
    first = (blocks - 1) * BLOCK - place
    if first >= length:
        return

    q += start * q_token + head * q_head
    k += start * k_token + head * k_head
    v += start * v_token + head * v_head
    grad += start * out_token + head * out_head

    key = first + tl.arange(0, BLOCK)
    keys = _rows(k, key, length, k_token, width, WIDTH)
    values = _rows(v, key, length, v_token, width, WIDTH)
    sum_k = tl.zeros([BLOCK, WIDTH], tl.float32)
    sum_v = tl.zeros([BLOCK, WIDTH], tl.float32)

    for begin in range(first, length, BLOCK):
        query = begin + tl.arange(0, BLOCK)
        queries = _rows(q, query, length, q_token, width, WIDTH)
        grads = _rows(grad, query, length, out_token, width, WIDTH)

        # Scores [keys, queries]: the transpose of the forward pass.
        added, seen = _biases(
            bias + head * longest,
            times + start,
            time_bias + head * _BUCKETS,
            query[None, :],
            key[:, None],
            length,
            TIMED,
        )
        scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * alpha + added
        sigmoid = 1.0 / (1.0 + tl.exp(-scores))
        weights = tl.where(seen, scores * sigmoid, 0.0)
        sum_v = tl.dot(weights.to(grads.dtype), grads, sum_v, input_precision=PRECISION)

        grad_weights = tl.dot(values, tl.trans(grads), input_precision=PRECISION) * scale
        grad_scores = tl.where(seen, grad_weights * sigmoid * (1.0 + scores * (1.0 - sigmoid)), 0.0)
        sum_k = tl.dot(grad_scores.to(queries.dtype), queries, sum_k, input_precision=PRECISION)

    to = start * out_token + head * out_head
    _store_rows(grad_k + to, sum_k * alpha, key, length, out_token, width, WIDTH)
    _store_rows(grad_v + to, sum_v * scale, key, length, out_token, width, WIDTH)


@triton.jit
def _sum_distances(
    distance_sums, offsets, grad_bias, sequences, blocks, longest, tokens, BLOCK: tl.constexpr
):
    """Writes grad_bias[head, distance]: sums over sequences and blocks of queries, in order."""
    head = tl.program_id(1)
    distance = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)

    total = tl.zeros([BLOCK], tl.float32)
    for sequence in range(sequences):
        start = tl.load(offsets + sequence)
        length = (tl.load(offsets + sequence + 1) - start).to(tl.int32)
        # Earlier blocks of queries have no keys at these distances.
        for block in range(tl.program_id(0), tl.cdiv(length, BLOCK)):
            at = distance_sums + (head * blocks + block).to(tl.int64) * tokens + start
            total += tl.load(
                at + distance,
                mask=(distance < length) & (distance < (block + 1) * BLOCK),
                other=0.0,
            )
    tl.store(grad_bias + head * longest + distance, total, mask=distance < longest)


def launch(width: int, backward: bool, number: int) -> dict[str, int]:
    """Returns the options with which a kernel for heads of this width is compiled.

    It gets the smallest number of warps that hold its sums in registers. It loads the next block
    ahead if there is enough shared memory for two blocks.

    Args:
        width: the width of a head, padded to a power of 2.
        backward: whether the kernel belongs to the backward pass.
        number: the bytes of a number of the rows.
    """
    return {
        "num_warps": 4 if width <= (64 if backward else 128) else 8,
        "num_stages": 1 if width * number > 256 else 2,
    }


class _Call:
    """The arguments that all kernels share."""

    def __init__(self, saved: Saved, divisor: float, alpha: float) -> None:
        q, k, v, bias_HL, bias_HC, offsets_B1, order_B, time_N = saved
        self.qkv = [x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v) if x is not None]
        assert bias_HL is not None
        assert offsets_B1 is not None
        self.bias_HL = bias_HL.contiguous()
        self.offsets_B1 = offsets_B1.contiguous()
        assert order_B is not None
        self.order_B = order_B

        self.tokens, self.heads, self.width = self.qkv[0].shape
        self.sequences = len(order_B)
        self.longest = bias_HL.shape[1]
        self.blocks = triton.cdiv(self.longest, BLOCK)

        # Kernels need a pointer for every argument. Without a time bias, they read neither times
        # nor time biases, so any tensor serves.
        self.timed = bias_HC is not None
        assert self.timed == (time_N is not None)
        times = self.offsets_B1 if time_N is None else time_N.contiguous()
        self.biases = [
            self.bias_HL,
            times,
            self.bias_HL if bias_HC is None else bias_HC.contiguous(),
        ]

        self.scales = (alpha, 1.0 / divisor)

        # tf32 keeps 10 of a float32's 23 mantissa bits; tf32x3's three products keep almost all.
        exact = torch.get_float32_matmul_precision() == "highest"
        padded = max(16, triton.next_power_of_2(self.width))
        self.constants = {
            "TIMED": self.timed,
            "WIDTH": padded,
            "BLOCK": BLOCK,
            "PRECISION": "tf32x3" if exact else "tf32",
        }
        self.grid = (self.sequences * self.heads * self.blocks,)

    def run(
        self,
        kernel: Any,
        *tensors: Tensor,
        like: Tensor,
        tokens: tuple[int, ...] = (),
        backward: bool = False,
    ) -> None:
        """Runs a kernel for all blocks of all heads and sequences.

        Args:
            kernel: the kernel.
            tensors: the kernel's arguments between q, k, v and the biases.
            like: a tensor with the strides of the output.
            tokens: the number of tokens, for a kernel that needs it.
            backward: whether it is a kernel of the backward pass.
        """
        strides = [stride for x in (*self.qkv, like) for stride in x.stride()[:2]]
        sizes = (self.heads, self.blocks, self.longest, self.width, *tokens)
        options = launch(self.constants["WIDTH"], backward, like.element_size())
        kernel[self.grid](
            *self.qkv, *tensors, *self.biases, self.offsets_B1, self.order_B,
            *strides, *sizes, *self.scales,
            **self.constants, **options,
        )  # fmt: skip


def attention_forward(saved: Saved, divisor: float, alpha: float) -> Tensor:
    """Returns the output of attention, [N, H, D]; see `hstu_attention_gpu.py`."""
    _, _, v_NHD, *_ = saved
    assert v_NHD is not None
    out_NHD = v_NHD.new_empty(v_NHD.shape)
    if len(v_NHD):
        _Call(saved, divisor, alpha).run(_forward, out_NHD, like=out_NHD)
    return out_NHD


def attention_backward(
    saved: Saved, divisor: float, alpha: float, grad_NHD: Tensor
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of q, k, v and of the biases by distance and by bucket of time."""
    q_NHD, _, _, bias_HL, bias_HC, *_ = saved
    assert q_NHD is not None
    assert bias_HL is not None
    grad_q, grad_k, grad_v = (q_NHD.new_empty(q_NHD.shape) for _ in range(3))
    if not len(q_NHD):
        none_HC = None if bias_HC is None else torch.zeros_like(bias_HC)
        return grad_q, grad_k, grad_v, torch.zeros_like(bias_HL), none_HC

    call = _Call(saved, divisor, alpha)
    grad_NHD = grad_NHD.contiguous()
    distance_sums = torch.empty(call.heads, call.blocks, call.tokens, device=q_NHD.device)
    time_sums = distance_sums  # not used without a time bias
    if call.timed:
        shape = (call.sequences, call.heads, call.blocks, TIME_BUCKETS)
        time_sums = torch.zeros(shape, device=q_NHD.device)

    outputs = (grad_q, distance_sums, time_sums)
    call.run(
        _backward_queries,
        grad_NHD,
        *outputs,
        like=grad_NHD,
        tokens=(call.tokens,),
        backward=True,
    )
    call.run(_backward_keys, grad_NHD, grad_k, grad_v, like=grad_NHD, backward=True)

    # The parts of the biases' gradients are summed in order.
    grad_bias_HL = torch.empty_like(call.bias_HL)
    sizes = (call.sequences, call.blocks, call.longest, call.tokens)
    _sum_distances[(call.blocks, call.heads)](
        distance_sums, call.offsets_B1, grad_bias_HL, *sizes, BLOCK=BLOCK
    )
    grad_bias_HC = None
    if bias_HC is not None:
        grad_bias_HC = time_sums.sum((0, 2)).to(bias_HC.dtype)
    return grad_q, grad_k, grad_v, grad_bias_HL, grad_bias_HC
