"""Norm, gate and dropout in one kernel equal the definition, by Triton's interpreter on a CPU.

`pip install triton` (the extra `triton`) where torch has brought none.
"""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip(
    "triton", reason="triton is not installed: pip install 'torchrec-priors[triton]'"
)

from torchrec_priors.ops import gated_norm_triton as kernels
from torchrec_priors.ops.gated_norm import NORM_BACKWARD, NORM_FORWARD
from torchrec_priors.ops.keyed_dropout import DROP, DropoutKeys, hashed_mask, hashed_salt

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-5


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(("lengths", "width"), [([2, 3], 5), ([40, 0, 93], 32), ([3], 200)])
def test_equals_the_definition_forward_and_gradient(lengths, width, p):
    generator = torch.Generator().manual_seed(0)
    rows = sum(lengths)
    packed = torch.randn(rows, 2 * width + 3, generator=generator).to(DEVICE)
    x, u = packed[:, :width], packed[:, width + 1 : 2 * width + 1]  # not contiguous
    weight, bias = torch.randn(2, width, generator=generator).to(DEVICE)
    grad = torch.randn(rows, width, generator=generator).to(DEVICE)
    key = None
    salt = hashed_salt(3)
    if p:
        key = DropoutKeys(list(range(len(lengths))), lengths).of_tokens(x.device)

    leaves = [leaf.detach().double().requires_grad_() for leaf in (x, u, weight, bias)]
    expected = F.layer_norm(leaves[0], (width,), leaves[2], leaves[3], EPS) * leaves[1]
    if key is not None:
        expected = expected * hashed_mask(key, salt, width, p) / (1 - p)
    expected.backward(grad.double())

    for forward, backward in (
        (kernels.norm_forward, kernels.norm_backward),
        (NORM_FORWARD.reference, NORM_BACKWARD.reference),
    ):
        out, moments = forward(x, u, weight, bias, key, EPS, salt, p)
        torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)
        grads = backward(x, u, weight, bias, key, moments, salt, p, grad)
        for fast, leaf in zip(grads, leaves, strict=True):
            torch.testing.assert_close(fast.double(), leaf.grad, rtol=1e-4, atol=1e-4)


def test_a_dropout_of_its_own_has_the_same_mask():
    key = DropoutKeys([5, 6], [7, 30]).of_tokens(torch.device(DEVICE))
    x = torch.randn(37, 1030, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    expected = DROP.reference(x, key, hashed_salt(2), 0.4)
    torch.testing.assert_close(kernels.drop(x, key, hashed_salt(2), 0.4), expected)
    assert abs(float((expected == 0).float().mean()) - 0.4) < 0.02
