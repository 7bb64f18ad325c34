"""Attention in blocks (float64) and by the C++ kernel (32 bits and less) equals the definition on any jagged batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops.hstu_attention import hstu_attention, hstu_attention_reference
from torchrec_priors.ops.hstu_attention_native import has_native
from torchrec_priors.ops.time_bias import TIME_BUCKETS, TimeBias, time_bucket


def _inputs(lengths, heads, width, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens, longest = sum(lengths), max(lengths, default=0) + 3
    q, k, v = (
        torch.randn(tokens, heads, width, generator=generator, dtype=torch.float64)
        for _ in range(3)
    )
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


def _both(lengths, heads, width, seed, dtype, timed=False):
    """Results and gradients: of `hstu_attention` in a dtype, and of the definition in float64 for the same numbers."""
    results = []
    for attention, used in ((hstu_attention, dtype), (hstu_attention_reference, torch.float64)):
        (q, k, v), offsets, bias = _inputs(lengths, heads, width, seed)
        packed = torch.cat([q, k, v], 1).detach().to(dtype).to(used).requires_grad_()
        bias = bias.detach().to(dtype).to(used).requires_grad_()
        times = _times(len(q), heads, seed) if timed else None
        if times is not None:
            times = TimeBias(
                times.time_N, times.bias_HC.detach().to(dtype).to(used).requires_grad_()
            )
        out = attention(*packed.chunk(3, 1), offsets, bias, 50.0, 0.3, times)
        out.square().sum().backward()
        results.append([out, packed.grad, bias.grad, *([times.bias_HC.grad] if times else [])])
    return results


needs_compiler = pytest.mark.skipif(
    not has_native(torch.empty(0)),
    reason="no C++ compiler here: attention in blocks takes its place",
)


@needs_compiler
@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(
        st.one_of(st.integers(0, 40), st.sampled_from([64, 65, 97])), min_size=1, max_size=6
    ),
    heads=st.integers(1, 3),
    width=st.sampled_from([1, 5, 16, 32, 33, 64]),
    seed=st.integers(0, 99),
    timed=st.booleans(),
)
def test_the_kernel_equals_the_definition_forward_and_gradient(lengths, heads, width, seed, timed):
    for fast, slow in zip(*_both(lengths, heads, width, seed, torch.float32, timed), strict=True):
        slow = torch.zeros_like(fast).double() if slow is None else slow
        largest = float(slow.detach().abs().sum()) and float(slow.detach().abs().max())
        torch.testing.assert_close(fast.double(), slow, rtol=1e-4, atol=1e-5 * (1 + largest))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_of_16_bits_are_summed_in_32(dtype):
    for fast, slow in zip(*_both([70, 3, 33], 2, 32, 0, dtype, timed=True), strict=True):
        assert fast.dtype == dtype
        error = (fast.double() - slow).abs().max() / slow.abs().max()
        assert error < 2 * torch.finfo(dtype).eps


@needs_compiler
def test_a_sequence_is_computed_alike_to_the_bit_alone_and_in_a_batch():
    (q, k, v), offsets, bias = _inputs([40, 7, 100], 2, 32, seed=0)
    inputs = torch.cat([q, k, v], 1).detach().float()
    results = []
    for tokens, bounds in ((slice(None), offsets), (slice(40, 47), torch.tensor([0, 7]))):
        x = inputs[tokens].clone().requires_grad_()
        out = hstu_attention(*x.chunk(3, 1), bounds, bias.detach().float(), 50.0, 0.3)
        out.square().sum().backward()
        results.append((out, x.grad))
    (together, grad), (alone, grad_alone) = results
    assert torch.equal(together[40:47], alone)
    assert torch.equal(grad[40:47], grad_alone)


def test_a_position_does_not_see_later_ones_or_other_sequences():
    (q, k, v), offsets, bias = _inputs([4, 5], 2, 3, seed=0)
    before = hstu_attention(q, k, v, offsets, bias, 10.0, 1.0)
    changed = v.detach().clone()
    changed[2] += 1  # third item of the first sequence
    after = hstu_attention(q, k, changed, offsets, bias, 10.0, 1.0)
    moved = (before - after).abs().flatten(1).sum(1) > 0
    assert moved.tolist() == [False, False, True, True] + [False] * 5


def test_a_sequence_longer_than_the_bias_is_refused():
    for dtype in (torch.float32, torch.float64):
        (q, k, v), offsets, bias = _inputs([4], 1, 2, seed=0)
        with pytest.raises(ValueError, match="4 tokens is longer than the configured 3"):
            hstu_attention(
                *(x.to(dtype) for x in (q, k, v)), offsets, bias[:, :3].to(dtype), 10.0, 1.0
            )


def test_buckets_of_time_are_those_of_the_logarithm():
    seconds = [0, 1, 2, 3, 4, 6, 7, 8, 2**20 - 2, 2**20 - 1, 2**38 - 2, 2**38 - 1]
    found = time_bucket(torch.tensor(seconds) * 1000).tolist()
    assert found == [(second + 1).bit_length() - 1 for second in seconds]
    assert time_bucket(torch.tensor([-5, 2**62])).tolist() == [0, TIME_BUCKETS - 1]
