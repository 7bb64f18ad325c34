"""Adapters on runs of rows equal Eq. 2 and 4 written out row by row, forward and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops import residual_adapters as module
from torchrec_priors.ops.residual_adapters import residual_adapters, residual_adapters_reference


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
