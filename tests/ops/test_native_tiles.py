"""The functions that all C++ kernels share are as exact as float32, and kernels for older processors are right."""

import ctypes
import os
import shutil

import numpy as np
import pytest
import torch

from torchrec_priors.ops import hstu_attention, native
from torchrec_priors.ops.gated_norm_native import NativeNorm
from torchrec_priors.ops.hstu_attention_native import hstu_attention_native
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import in_group_loss, in_group_loss_reference
from torchrec_priors.ops.residual_adapters import residual_adapters, residual_adapters_reference

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")
HERE = "-march=native"
OLDER = ("-march=haswell", "-march=x86-64")  # AVX2, and SSE2 without fused operations

SOURCE = """
#include "%s/native_tiles.h"
extern "C" {
int lanes() { return LANES; }
void functions(const float* x, float* to, int64_t count) {
  for (int64_t i = 0; i < count; i += LANES) {
    const vec s = sigmoid(load(x + i));
    store(to + i, exponential(load(x + i)));
    store(to + count + i, s);
    store(to + 2 * count + i, silu_slope(load(x + i) * s, s));
  }
}
void turn(const float* x, float* to) { transpose(to, LANES, x, LANES); }
}
"""


@pytest.fixture(params=[HERE, *OLDER])
def functions(request, tmp_path, monkeypatch):
    """The functions, compiled for a kind of processor."""
    _compile_for(request.param, tmp_path, monkeypatch)
    source = tmp_path / "functions.cpp"
    source.write_text(SOURCE % os.path.dirname(native.__file__))
    yield native.load_native(source)
    native.load_native.cache_clear()


def _compile_for(processor, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHREC_PRIORS_NATIVE", raising=False)
    flags = [processor if flag.startswith("-march") else flag for flag in native._FLAGS]
    monkeypatch.setattr(native, "_FLAGS", tuple(flags))
    native.load_native.cache_clear()


def _computed(functions, x):
    x = np.ascontiguousarray(x, np.float32)
    to = np.empty((3, len(x)), np.float32)
    pointer = [ctypes.c_void_p(array.ctypes.data) for array in (x, to)]
    functions.functions(*pointer, ctypes.c_int64(len(x)))
    return x.astype(np.float64), *to.astype(np.float64)


@needs_compiler
def test_exponential_and_sigmoid_have_the_accuracy_of_float32(functions):
    x, exp, sigmoid, slope = _computed(functions, np.linspace(-86, 86, 1 << 16))
    true = 1 / (1 + np.exp(-x))
    # Without fused operations, the error of a rounded product grows with x.
    error = 3e-7 + 8e-8 * np.abs(x)
    assert (np.abs(exp / np.exp(x) - 1) < error).all()
    assert (np.abs(sigmoid / true - 1) < error).all()
    assert (np.abs(slope - true * (1 + x * (1 - true))) < 2e-6).all()


@needs_compiler
def test_numbers_of_any_size_have_a_result(functions):
    given = [-np.inf, -1e30, -88.2, 88.9, 1e30, np.inf, np.nan, 0.0] * 4
    x, exp, sigmoid, _ = _computed(functions, given)
    assert exp[:8].tolist()[:6] == [0, 0, 0, np.inf, np.inf, np.inf]
    assert np.isnan(exp[6])
    assert exp[7] == 1
    assert (sigmoid[:3] < 1e-37).all()
    assert (sigmoid[3:6] == 1).all()
    assert np.isnan(x[6] * sigmoid[6])


@needs_compiler
def test_blocks_are_transposed(functions):
    lanes = functions.lanes()
    x = np.arange(lanes**2, dtype=np.float32).reshape(lanes, lanes)
    to = np.empty_like(x)
    functions.turn(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(to.ctypes.data))
    assert (to == x.T).all()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("processor", OLDER)
def test_kernels_for_older_processors_equal_the_references(processor, tmp_path, monkeypatch):
    _compile_for(processor, tmp_path, monkeypatch)
    torch.manual_seed(0)
    for kernel, reference in (_attention(), _softmax(), _adapters(), _norm()):
        for one, other in zip(kernel, reference, strict=True):
            scale = 1.0 + float(other.abs().max())
            torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=2e-5 * scale)
    compiled = {file.name.split("-")[0] for file in (tmp_path / "cache").rglob("*.so")}
    assert len(compiled) == 4
    native.load_native.cache_clear()


def _results(run, leaves, dtype):
    """The results of a function of some tensors, and their gradients."""
    copies = [leaf.to(dtype).clone().requires_grad_() for leaf in leaves]
    out = run(*copies)
    (out * torch.linspace(-1, 2, out.numel(), dtype=dtype).view_as(out)).sum().backward()
    return [out.detach(), *(copy.grad for copy in copies)]


def _attention():
    lengths = [70, 3, 41]
    offsets = torch.cumsum(torch.tensor([0, *lengths]), 0)
    leaves = [*torch.randn(3, sum(lengths), 2, 24).unbind(), torch.randn(2, 80)]
    both = []
    for attention, dtype in (
        (hstu_attention_native, torch.float32),
        (hstu_attention.hstu_attention_reference, torch.float64),
    ):

        def run(q, k, v, bias, attention=attention):
            return attention(q, k, v, offsets, bias, 50.0, 0.3)

        both.append(_results(run, leaves, dtype))
    return both


def _softmax():
    queries, negatives = [70, 9], [130, 5]
    ids = torch.cat([torch.randint(100, 300, (count,)).sort().values for count in negatives])
    source = torch.randint(0, 40, (79,))
    leaves = [torch.randn(79, 96), 0.2 * torch.randn(40, 96), 0.2 * torch.randn(135, 96)]
    both = []
    for loss, dtype in ((in_group_loss, torch.float32), (in_group_loss_reference, torch.float64)):

        def run(q, items, vectors, loss=loss, dtype=dtype):
            one_each = torch.arange(79)
            of = WeighedPositives(items, source, source, one_each, torch.ones(79, dtype=dtype))
            return loss(q, queries, of, NegativeSets(vectors, ids, negatives))[0]

        both.append(_results(run, leaves, dtype))
    return both


def _adapters():
    rows = torch.randint(0, 50, (140,))
    runs = [(1, 67), (-1, 5), (0, 68)]
    leaves = [torch.randn(50, 96), 0.1 * torch.randn(2, 96, 96), torch.randn(2, 96)]
    return [
        _results(lambda z, weight, bias, f=f: f(z, weight, bias, rows, runs), leaves, dtype)
        for f, dtype in (
            (residual_adapters, torch.float32),
            (residual_adapters_reference, torch.float64),
        )
    ]


def _norm():
    x, gate = torch.randn(2, 37, 48)
    y, _ = NativeNorm(x, torch.ones(48), torch.zeros(48), 1e-5, gate).forward()
    normed = torch.nn.functional.layer_norm(x.double(), (48,))
    return [y], [normed * torch.nn.functional.silu(gate.double())]
