"""The Triton kernels equal the definition, by Triton's interpreter on a CPU, and compile for a GPU that is not there.

`pip install triton` (the extra `triton`) where torch has brought none.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip(
    "triton", reason="triton is not installed: pip install 'torchrec-priors[triton]'"
)

from torchrec_priors.ops.hstu_attention import hstu_attention_reference
from torchrec_priors.ops.hstu_attention_gpu import can_compute, hstu_attention_gpu
from torchrec_priors.ops.time_bias import TIME_BUCKETS, TimeBias

# Bytes a thread, by type and width: spilled registers, and what the compiler needs for itself.
STACK = {
    ("bf16", 32): 64,
    ("bf16", 128): 64,
    ("bf16", 256): 640,
    ("fp16", 128): 64,
    ("fp32", 32): 512,
    ("fp32", 128): 2048,
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _both(lengths, heads, width, dtype, timed, seed=0):
    """Results and gradients of the kernels, and of the definition in float64 for the same numbers."""
    results = []
    for attention, used in (
        (hstu_attention_gpu, dtype),
        (hstu_attention_reference, torch.float64),
    ):
        generator = torch.Generator().manual_seed(seed)

        def made(*shape, generator=generator, used=used):
            return (
                torch.randn(*shape, generator=generator).to(DEVICE, dtype).to(used).requires_grad_()
            )

        packed, bias = (
            made(sum(lengths), 3 * heads, width),
            made(heads, max(lengths, default=0) + 3),
        )
        offsets = torch.tensor([0, *lengths], device=DEVICE).cumsum(0)
        times = None
        if timed:
            gaps = (10.0 ** torch.randint(0, 12, (sum(lengths),), generator=generator)).long()
            times = TimeBias(torch.cumsum(gaps, 0).to(DEVICE), made(heads, TIME_BUCKETS))
        out = attention(*packed.chunk(3, 1), offsets, bias, 50.0, 0.3, times)
        out.square().sum().backward()
        results.append([out, packed.grad, bias.grad, *([times.bias_HC.grad] if times else [])])
    return zip(*results, strict=True)


@settings(deadline=None, max_examples=12)
@given(
    lengths=st.lists(st.one_of(st.integers(0, 20), st.sampled_from([63, 64, 65, 130])), max_size=3),
    heads=st.integers(1, 2),
    width=st.sampled_from([1, 5, 16, 32]),
    timed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_the_definition_forward_and_gradient(lengths, heads, width, timed, seed):
    for fast, slow in _both(lengths, heads, width, torch.float32, timed, seed):
        slow = torch.zeros_like(fast).double() if slow is None else slow
        largest = float(slow.detach().abs().sum()) and float(slow.detach().abs().max())
        torch.testing.assert_close(fast.double(), slow, rtol=1e-4, atol=1e-5 * (1 + largest))


@pytest.mark.parametrize("width", [64, 128])
def test_wide_heads_equal_the_definition(width):
    for fast, slow in _both([66, 3], 1, width, torch.float32, timed=False):
        torch.testing.assert_close(
            fast.double(), slow, rtol=1e-4, atol=1e-5 * (1 + float(slow.detach().abs().max()))
        )


@pytest.mark.parametrize("width", [32, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_of_16_bits_are_summed_in_32(dtype, width):
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip(
            "Triton's interpreter takes the bits of bfloat16 for integers in products: a GPU is needed"
        )
    for fast, slow in _both([70, 3], 1, width, dtype, timed=True):
        assert fast.dtype == dtype
        assert (fast.double() - slow).abs().max() / slow.abs().max() < 3 * torch.finfo(dtype).eps


def test_wider_heads_and_more_bits_are_left_to_others():
    assert can_compute(torch.empty(1, 1, 128))
    assert not can_compute(torch.empty(1, 1, 129))
    assert can_compute(torch.empty(1, 1, 256, dtype=torch.bfloat16))
    assert not can_compute(torch.empty(1, 1, 257, dtype=torch.bfloat16))
    assert not can_compute(torch.empty(1, 1, 8, dtype=torch.float64))


@pytest.mark.parametrize(
    ("target", "dtype", "width"),
    [
        ("sm_90", "bf16", 32),
        ("sm_90", "bf16", 128),
        ("sm_90", "fp16", 128),
        ("sm_90", "fp32", 32),
        ("sm_90", "fp32", 128),
        ("sm_90", "bf16", 256),
        ("sm_100", "bf16", 128),
    ],
)
def test_kernels_compile_for_a_gpu_and_fit_it(target, dtype, width):
    """In a process of its own, where the kernels are not functions of the interpreter."""
    script = Path(__file__).parents[2] / "tools" / "compile_attention.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(script), target, dtype, str(width)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert len(rows) == 3
    for *kernel, _warps, shared, registers, stack in rows:
        assert 0 < int(registers) <= 255, kernel
        assert 0 < int(shared) <= 227 * 1024, kernel
        assert int(stack) <= STACK[dtype, width], kernel
