"""The bucketed attention equals the definition, forward and gradient, on jagged batches of any shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops.hstu_attention import hstu_attention, hstu_attention_reference


def _inputs(lengths, heads, width, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens, longest = sum(lengths), max(lengths, default=0) + 3
    q, k, v = (torch.randn(tokens, heads, width, generator=generator, dtype=torch.float64) for _ in range(3))
    bias = torch.randn(heads, longest, generator=generator, dtype=torch.float64)
    offsets = torch.cumsum(torch.tensor([0, *lengths]), 0)
    return [x.requires_grad_() for x in (q, k, v)], offsets, bias.requires_grad_()


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 23), max_size=9),
    heads=st.integers(1, 3),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_equals_the_definition_forward_and_gradient(lengths, heads, width, seed):
    results = []
    for attention in (hstu_attention, hstu_attention_reference):
        (q, k, v), offsets, bias = _inputs(lengths, heads, width, seed)
        out = attention(q, k, v, offsets, bias, 50.0, 0.3)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        results.append([out, q.grad, k.grad, v.grad, bias.grad])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, torch.zeros_like(fast) if slow is None else slow)


def test_a_position_does_not_see_later_ones_or_other_sequences():
    (q, k, v), offsets, bias = _inputs([4, 5], 2, 3, seed=0)
    before = hstu_attention(q, k, v, offsets, bias, 10.0, 1.0)
    changed = v.detach().clone()
    changed[2] += 1  # third item of the first sequence
    after = hstu_attention(q, k, changed, offsets, bias, 10.0, 1.0)
    moved = (before - after).abs().flatten(1).sum(1) > 0
    assert moved.tolist() == [False, False, True, True] + [False] * 5


def test_a_sequence_longer_than_the_bias_is_refused():
    (q, k, v), offsets, bias = _inputs([4], 1, 2, seed=0)
    with pytest.raises(ValueError, match="4 tokens is longer than the configured 3"):
        hstu_attention(q, k, v, offsets, bias[:, :3], 10.0, 1.0)
