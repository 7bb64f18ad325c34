"""Adapters on runs of rows equal Eq. 2 and 4 written out row by row, forward and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops import residual_adapters as module
from torchrec_priors.ops.in_group_softmax_native import has_products
from torchrec_priors.ops.products import PIECES, products
from torchrec_priors.ops.residual_adapters import residual_adapters, residual_adapters_reference
from torchrec_priors.ops.residual_adapters_native import has_native_adapters

needs_compiler = pytest.mark.skipif(
    not has_native_adapters(torch.empty(0, 32), []), reason="no C++ compiler here"
)


@settings(deadline=None, max_examples=80)
@given(
    runs=st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 7)), max_size=6),
    vectors=st.integers(1, 5),
    dim=st.integers(1, 4),
    matrices=st.booleans(),
    biases=st.booleans(),
    block=st.sampled_from([1, 3, 1 << 10]),
    seed=st.integers(0, 99),
)
def test_equals_the_definition_forward_and_gradient(
    runs, vectors, dim, matrices, biases, block, seed
):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = sum(count for _, count in runs)
    row = torch.randint(0, vectors, (rows,), generator=generator)
    first = [
        normal(vectors, dim),
        normal(4, dim, dim) if matrices else None,
        normal(4, dim) if biases else None,
    ]
    target = normal(rows, dim)
    results = []
    for adapt in (residual_adapters, residual_adapters_reference):
        z, weight, bias = (
            None if leaf is None else leaf.clone().requires_grad_() for leaf in first
        )
        leaves = [leaf for leaf in (z, weight, bias) if leaf is not None]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(module._ROWS, "cpu", block)
            out = adapt(z, weight, bias, row, runs)
            ((out * target).sum() + 0 * sum(leaf.sum() for leaf in leaves)).backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)


def _results(runs, vectors, dim, biases, dtype, seed=0):
    """The result and all gradients of the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(count for _, count in runs)
    row = torch.randint(0, vectors, (rows,), generator=generator)
    first = [torch.randn(*shape, generator=generator) for shape in ((vectors, dim), (4, dim))]
    first.append(0.3 * torch.randn(4, dim, dim, generator=generator))
    z, bias, weight = (leaf.clone().to(dtype).requires_grad_() for leaf in first)
    target = torch.randn(rows, dim, generator=generator).to(dtype)
    out = residual_adapters(z, weight, bias if biases else None, row, runs)
    ((out * target).sum() + 0 * bias.sum()).backward()
    return [out.detach(), z.grad, weight.grad, bias.grad]


@needs_compiler
@settings(deadline=None, max_examples=20)
@given(
    runs=st.lists(
        st.tuples(st.integers(-1, 3), st.sampled_from([0, 1, 7, 64, 65, 600])), max_size=5
    ),
    vectors=st.sampled_from([1, 9, 400]),
    dim=st.sampled_from([32, 96]),
    biases=st.booleans(),
    kind=st.sampled_from(["fp32", "bf16x3"]),
)
def test_the_kernel_equals_blocks_of_float64_forward_and_gradient(runs, vectors, dim, biases, kind):
    """Those are compared with the definition above."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchrec_priors.ops.residual_adapters_native._ROWS", 0)
        with products(kind):
            fast = _results(runs, vectors, dim, biases, torch.float32)
    slow = _results(runs, vectors, dim, biases, torch.float64)
    for one, other in zip(fast, slow, strict=True):
        scale = 1.0 + float(other.abs().max()) if other.numel() else 1.0
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5 * scale)


@needs_compiler
def test_more_pieces_are_more_exact():
    """Typical errors as shares of typical values. Three pieces are as exact as float32."""
    runs = [(0, 700), (-1, 5), (2, 33)]
    exact = _results(runs, 300, 128, True, torch.float64)
    errors = {}
    for kind in PIECES:
        if not has_products(kind, 128):
            continue
        with products(kind):
            results = _results(runs, 300, 128, True, torch.float32)
        pairs = zip(results, exact, strict=True)
        errors[kind] = [float((one - other).norm() / other.norm()) for one, other in pairs]

    of_biases = {of_kind.pop() for of_kind in errors.values()}
    assert len(of_biases) == 1  # they have no products
    for kind, of_kind in errors.items():
        for error, fp32 in zip(of_kind, errors["fp32"], strict=True):
            least, most = {
                "fp32": (0, 1e-6),
                "bf16x3": (0, fp32),
                "bf16x2": (fp32, 1e-5),
                "bf16x1": (1e-4, 1e-2),
            }[kind]
            assert least < error < most


@needs_compiler
@pytest.mark.parametrize("kind", PIECES)
def test_threads_change_no_bit(kind, monkeypatch):
    monkeypatch.setattr("torchrec_priors.ops.residual_adapters_native.ENOUGH", 1)
    runs = [(0, 1200), (3, 10), (1, 700), (0, 600)]
    results = []
    for threads in (1, 3, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with products(kind):
            results.append(_results(runs, 300, 32, True, torch.float32))
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


@needs_compiler
def test_few_rows_other_types_and_other_widths_are_computed_run_by_run():
    wide = torch.empty(1, 32)
    assert has_native_adapters(wide, [(0, 64), (1, 64)])
    assert not has_native_adapters(wide, [(0, 1), (1, 1)])
    assert not has_native_adapters(torch.empty(1, 31), [(0, 64)])
    assert not has_native_adapters(wide.double(), [(0, 64)])
