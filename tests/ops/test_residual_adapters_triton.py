"""The grouped GEMM equals the definition, by Triton's interpreter on a CPU.

`pip install triton` (the extra `triton`) where torch has brought none.
"""

import pytest
import torch

pytest.importorskip(
    "triton", reason="triton is not installed: pip install 'torchrec-priors[triton]'"
)

from torchrec_priors.ops import residual_adapters_triton as kernels
from torchrec_priors.ops.residual_adapters import (
    ADAPTERS_BACKWARD,
    ADAPTERS_FORWARD,
    DeviceRuns,
    residual_adapters_reference,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def runs_of(adapters: list[int], counts: list[int], number: int) -> DeviceRuns:
    """Runs with these adapters and numbers of rows; there are `number` adapters."""
    adapter = torch.tensor(adapters, dtype=torch.int64)
    count = torch.tensor(counts, dtype=torch.int64)
    order = torch.argsort(adapter, stable=True)
    order = order[int((adapter < 0).sum()) :]
    first = torch.searchsorted(adapter[order].contiguous(), torch.arange(number + 1))
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])
    run = torch.repeat_interleave(torch.arange(len(adapters)), count)
    return DeviceRuns(*(part.to(DEVICE) for part in (run, adapter, bounds, order, first)))


CASES = {
    "one adapter": ([0], [3], 1, 16, "matrix"),
    "a block with several runs": ([2, -1, 0, 1], [5, 3, 0, 7], 3, 33, "both"),
    "runs of several blocks": ([1, 0, 1], [70, 64, 2], 2, 5, "matrix"),
    "an adapter without runs, columns of several blocks": ([1, -1], [3, 2], 3, 66, "both"),
    "vectors": ([1, -1, 0], [66, 2, 3], 2, 5, "vector"),
    "no rows": ([0, 1], [0, 0], 2, 4, "both"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_definition_forward_and_gradient(case):
    adapters, counts, number, width, kind = case
    has_weight, has_bias = kind != "vector", kind != "matrix"
    seed = 0
    runs = runs_of(adapters, counts, number)

    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(7, width, generator=generator).to(DEVICE)
    weight = torch.randn(number, width, width, generator=generator).to(DEVICE)
    bias = torch.randn(number, width, generator=generator).to(DEVICE)
    row = torch.randint(7, (sum(counts),), generator=generator).to(DEVICE)
    grad = torch.randn(sum(counts), width, generator=generator).to(DEVICE)
    given_ = (z, weight if has_weight else None, bias if has_bias else None, row, runs)

    leaves = [x.double().requires_grad_() for x in (z, weight, bias)]
    definition = residual_adapters_reference(
        leaves[0],
        leaves[1] if has_weight else None,
        leaves[2] if has_bias else None,
        row,
        list(zip(adapters, counts, strict=True)),
    )
    definition.backward(grad.double())
    expected = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]

    for forward, backward in (
        (kernels.adapters_forward, kernels.adapters_backward),
        (ADAPTERS_FORWARD.reference, ADAPTERS_BACKWARD.reference),
    ):
        _close(forward(*given_), definition)
        through, grad_weight, grad_bias = backward(*given_, grad)
        _close(torch.zeros_like(z).index_add_(0, row, through), expected[0])
        assert (grad_weight is None) != has_weight
        if has_weight:
            _close(grad_weight, expected[1])
        if has_bias:
            _close(grad_bias, expected[2])


def _close(fast: torch.Tensor, slow: torch.Tensor) -> None:
    largest = float(slow.detach().abs().max()) if slow.numel() else 0.0
    torch.testing.assert_close(fast.double(), slow, rtol=1e-4, atol=1e-5 * (1 + largest))
