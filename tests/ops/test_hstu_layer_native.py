"""A layer of HSTU by the kernels of a CPU equals the same layer by PyTorch's operations, forward and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.encoder import hstu
from torchrec_priors.encoder.hstu import HSTULayer
from torchrec_priors.ops.gated_norm_native import NativeNorm, has_native_norm
from torchrec_priors.ops.hstu_layer_native import has_native_layer
from torchrec_priors.ops.keyed_dropout import DropoutKeys

CONTEXT = 60
needs_compiler = pytest.mark.skipif(
    not has_native_layer(torch.empty(1, 16)), reason="no C++ compiler here"
)


def _layer(dim, heads, dropout, timed):
    torch.manual_seed(0)
    layer = HSTULayer(dim, heads, CONTEXT, dropout, salt=1, time_bias=timed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return layer


def _result(layer, x, lengths, times, keys, monkeypatch, native):
    """The layer's result and all gradients, in the type of x."""
    layer = layer.to(x.dtype)
    layer.zero_grad()
    offsets = torch.cumsum(torch.tensor([0, *lengths]), 0)
    leaf = x.clone().requires_grad_()
    with monkeypatch.context() as patch:
        if not native:
            patch.setattr(hstu, "has_native_layer", lambda _: False)
        out = layer(leaf, offsets, times, keys)
        (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out, leaf.grad, *(parameter.grad for parameter in layer.parameters())]


@needs_compiler
@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 7, 33, CONTEXT]), min_size=1, max_size=5),
    dim=st.sampled_from([16, 48, 128]),
    heads=st.sampled_from([1, 2, 4]),
    dropout=st.sampled_from([0.0, 0.4]),
    timed=st.booleans(),
    training=st.booleans(),
)
def test_equals_the_plain_layer_forward_and_gradient(lengths, dim, heads, dropout, timed, training):
    tokens = sum(lengths)
    layer = _layer(dim, heads, dropout, timed)
    x = torch.randn(tokens, dim)
    times = torch.cumsum(torch.randint(0, 10**9, (tokens,)), 0) if timed else None
    keys = DropoutKeys(list(range(len(lengths))), lengths) if training else None
    with pytest.MonkeyPatch.context() as patch:
        fast = _result(layer, x, lengths, times, keys, patch, native=True)
        # The mask of the dropout depends on the type, so the mask of float32 is used for both.
        mask = hstu.dropout_mask(x, keys, 1, dropout)
        patch.setattr(hstu, "keyed_dropout", lambda y, *_: y if mask is None else y * mask)
        slow = _result(layer, x.double(), lengths, times, keys, patch, native=False)
    for one, other in zip(fast, slow, strict=True):
        scale = 1.0 + float(other.detach().abs().max()) if other.numel() else 1.0
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5 * scale)


@needs_compiler
def test_the_kernels_are_used_and_give_the_same_bits_on_any_number_of_threads(monkeypatch):
    monkeypatch.setattr("torchrec_priors.ops.gated_norm_native._ENOUGH", 1)
    x, u = torch.randn(2, 700, 32)
    weight, bias = torch.randn(2, 32)
    results = []
    for threads in (1, 3, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        norm = NativeNorm(x, weight, bias, 1e-5, u, torch.full_like(x, 1.25))
        y, moments = norm.forward()
        grad_x, grad_u = torch.empty(2, 700, 32)
        by_parameters = norm.backward(x + u, moments, grad_x, grad_u, u)
        results.append([y, moments, grad_x, grad_u, *by_parameters])
    assert has_native_norm(x)
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


@needs_compiler
@pytest.mark.parametrize("far", [0.0, 1e3])
def test_rows_far_from_zero_and_rows_of_one_number_are_normalised(far):
    x = torch.randn(5, 16) + far
    x[3] = far + 1
    weight, bias = torch.randn(2, 16)
    y, _ = NativeNorm(x, weight, bias, 1e-5).forward()
    expected = torch.nn.functional.layer_norm(x.double(), (16,), weight.double(), bias.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-3)


@needs_compiler
def test_other_types_and_widths_have_the_plain_layer():
    assert not has_native_layer(torch.empty(1, 8))
    assert not has_native_layer(torch.empty(1, 16, dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        assert not has_native_layer(torch.empty(1, 16))


@needs_compiler
def test_gates_and_inputs_of_any_size_stay_finite():
    u = torch.tensor([-1e30, -200.0, -88.0, -1.0, 0.0, 1.0, 88.0, 1e30] * 2)[None]
    x = torch.randn(1, 16)
    norm = NativeNorm(x, torch.ones(16), torch.zeros(16), 1e-5, u)
    y, moments = norm.forward()
    grad_u = torch.empty(1, 16)
    norm.backward(torch.ones(1, 16), moments, torch.empty(1, 16), grad_u)
    wide = u.double().requires_grad_()
    normed = torch.nn.functional.layer_norm(x.double(), (16,))
    expected = normed * torch.nn.functional.silu(wide)
    expected.sum().backward()
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_u.double(), wide.grad, rtol=1e-4, atol=1e-5)
