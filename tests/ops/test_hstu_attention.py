"""The bucketed attention equals the definition, forward and gradient, on jagged batches of any shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops.hstu_attention import hstu_attention, hstu_attention_reference
from torchrec_priors.ops.time_bias import TIME_BUCKETS, TimeBias, time_bucket


def _inputs(lengths, heads, width, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens, longest = sum(lengths), max(lengths, default=0) + 3
    q, k, v = (torch.randn(tokens, heads, width, generator=generator, dtype=torch.float64) for _ in range(3))
    bias = torch.randn(heads, longest, generator=generator, dtype=torch.float64)
    offsets = torch.cumsum(torch.tensor([0, *lengths]), 0)
    return [x.requires_grad_() for x in (q, k, v)], offsets, bias.requires_grad_()


def _times(tokens, heads, seed):
    """Gaps of a few milliseconds to years; the order within a sequence follows from the running sum."""
    generator = torch.Generator().manual_seed(seed + 1)
    gaps = (10.0 ** torch.randint(0, 12, (tokens,), generator=generator)).long()
    bias = torch.randn(heads, TIME_BUCKETS, generator=generator, dtype=torch.float64)
    return TimeBias(torch.cumsum(gaps, 0), bias.requires_grad_())


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 23), max_size=9),
    heads=st.integers(1, 3),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
    timed=st.booleans(),
)
def test_equals_the_definition_forward_and_gradient(lengths, heads, width, seed, timed):
    results = []
    for attention in (hstu_attention, hstu_attention_reference):
        (q, k, v), offsets, bias = _inputs(lengths, heads, width, seed)
        times = _times(len(q), heads, seed) if timed else None
        out = attention(q, k, v, offsets, bias, 50.0, 0.3, times)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        results.append([out, q.grad, k.grad, v.grad, bias.grad])
        results[-1] += [times.bias_HC.grad] if timed else []
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, torch.zeros_like(fast) if slow is None else slow)


@pytest.mark.parametrize("timed", [False, True])
def test_sequences_of_several_blocks_equal_the_definition(timed):
    lengths = [64, 65, 0, 63, 130, 1, 200]
    results = []
    for attention in (hstu_attention, hstu_attention_reference):
        (q, k, v), offsets, bias = _inputs(lengths, 2, 3, seed=1)
        times = _times(len(q), 2, seed=1) if timed else None
        out = attention(q, k, v, offsets, bias, 200.0, 0.5, times)
        out.square().sum().backward()
        results.append([out, q.grad, k.grad, v.grad, bias.grad])
        results[-1] += [times.bias_HC.grad] if timed else []
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)


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


def test_buckets_of_time_are_those_of_the_logarithm():
    seconds = [0, 1, 2, 3, 4, 6, 7, 8, 2**20 - 2, 2**20 - 1, 2**38 - 2, 2**38 - 1]
    found = time_bucket(torch.tensor(seconds) * 1000).tolist()
    assert found == [(second + 1).bit_length() - 1 for second in seconds]
    assert time_bucket(torch.tensor([-5, 2**62])).tolist() == [0, TIME_BUCKETS - 1]
