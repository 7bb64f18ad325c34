"""The grouped product equals one matrix per row, forward and gradient."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops.grouped_linear import grouped_linear, grouped_linear_reference


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(0, 7), min_size=1, max_size=8),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_equals_the_definition_forward_and_gradient(counts, inputs, outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(counts), inputs, generator=generator, dtype=torch.float64)
    weight = torch.randn(len(counts), outputs, inputs, generator=generator, dtype=torch.float64)
    target = torch.randn(sum(counts), outputs, generator=generator, dtype=torch.float64)
    results = []
    for product in (grouped_linear, grouped_linear_reference):
        xs, weights = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = product(xs, weights, counts)
        (out * target).sum().backward()
        results.append([out, xs.grad, weights.grad])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)
