"""Attention over padded chunks equals the definition on any jagged batch, forward and gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops.softmax_attention import (
    attention_chunks,
    attention_in_chunks,
    softmax_attention,
    softmax_attention_reference,
)


def _inputs(lengths, heads, width, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    qkv = [
        torch.randn(sum(lengths), heads, width, generator=generator, dtype=dtype) for _ in range(3)
    ]
    return [x.requires_grad_() for x in qkv], torch.cumsum(torch.tensor([0, *lengths]), 0)


def _results(attention, lengths, heads, width, seed):
    (q, k, v), offsets = _inputs(lengths, heads, width, seed)
    out = attention(q, k, v, offsets)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out, *(torch.zeros_like(x) if x.grad is None else x.grad for x in (q, k, v))]


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 23), max_size=9),
    heads=st.integers(1, 3),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_equals_the_definition_forward_and_gradient(lengths, heads, width, seed):
    fast, slow = (
        _results(attention, lengths, heads, width, seed)
        for attention in (softmax_attention, softmax_attention_reference)
    )
    torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("lengths", [[], [1], [1, 1, 1], [0, 0], [200, 1, 0, 64, 65]], ids=str)
def test_so_do_odd_batches(lengths):
    torch.testing.assert_close(
        _results(softmax_attention, lengths, 2, 4, 0),
        _results(softmax_attention_reference, lengths, 2, 4, 0),
    )


def test_the_definition_is_the_equation():
    (q, k, v), offsets = _inputs([3, 2], heads=2, width=4, seed=0)
    out = softmax_attention_reference(q, k, v, offsets).tolist()
    q, k, v = (x.tolist() for x in (q, k, v))
    for start, end in ((0, 3), (3, 5)):
        for i in range(start, end):
            for h in range(2):
                e = [
                    math.exp(sum(a * b for a, b in zip(q[i][h], k[j][h], strict=True)) / 2)
                    for j in range(start, i + 1)
                ]
                wanted = [
                    sum(w * v[start + j][h][d] for j, w in enumerate(e)) / sum(e) for d in range(4)
                ]
                assert out[i][h] == pytest.approx(wanted)


def test_a_position_does_not_see_later_ones_or_other_sequences():
    (q, k, v), offsets = _inputs([4, 5], 2, 3, seed=0)
    before = softmax_attention(q, k, v, offsets)
    changed_k, changed_v = k.detach().clone(), v.detach().clone()
    changed_k[2] += 1  # third item of the first sequence
    changed_v[2] += 1
    moved = (before - softmax_attention(q, changed_k, changed_v, offsets)).abs().flatten(1).sum(
        1
    ) > 0
    assert moved.tolist() == [False, False, True, True] + [False] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fewer_bits_are_close_to_the_definition(dtype):
    lengths = [70, 3, 33]
    (q, k, v), offsets = _inputs(lengths, 2, 32, 0, dtype)
    out = softmax_attention(q, k, v, offsets)
    assert out.dtype == dtype
    wanted = softmax_attention_reference(q.double(), k.double(), v.double(), offsets)
    assert (out.double() - wanted).abs().max() < 4 * torch.finfo(dtype).eps * wanted.abs().max()


def test_grouped_queries_use_the_keys_and_values_of_their_group():
    q, k, v = torch.randn(9, 6, 4), torch.randn(9, 2, 4), torch.randn(9, 2, 4)
    offsets = torch.tensor([0, 5, 5, 9])
    out = attention_in_chunks(q, k, v, attention_chunks(offsets), scale=1.0)
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    wanted = softmax_attention_reference(2 * q, k[:, group], v[:, group], offsets)
    torch.testing.assert_close(out, wanted)  # 2 is sqrt(D)
