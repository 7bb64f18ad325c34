"""Times HSTU's attention at several lengths, as a share of the measured rate of matrix products.

Useful FLOPs are counted: 2 products forward and 4 backward, of the scores below the diagonal. The
kernels compute more (docs/attention.md).
"""

from dataclasses import dataclass

import torch

from torchrec_priors.bench.gpu.device import (
    device_seconds,
    matmul_rate,
    peak_bytes,
    with_kernels,
)
from torchrec_priors.bench.gpu.report import Report
from torchrec_priors.ops.hstu_attention import hstu_attention
from torchrec_priors.ops.hstu_attention_gpu import longest_first


@dataclass(frozen=True)
class Sizes:
    """The sizes: tokens of a batch, heads, lengths of sequences, widths of heads, repeats."""

    tokens: int
    heads: int
    lengths: tuple[int, ...]
    widths: tuple[int, ...]
    repeats: int


SIZES = {
    "cuda": Sizes(1 << 16, 4, (400, 1_024, 4_096), (128, 256), 20),
    "cpu": Sizes(1 << 5, 1, (16,), (16,), 1),
}


def time_attention(device: torch.device, report: Report) -> None:
    """Reports a row for each length and width; in bfloat16, on a CPU in float32."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rate = matmul_rate(device, dtype)
    sizes = SIZES[device.type]
    with with_kernels(device):
        for length in sizes.lengths:
            for width in sizes.widths:
                row = {"length": length, "d": width}
                report("attention", {**row, **_timed(length, width, dtype, rate, sizes, device)})


def _timed(
    length: int,
    width: int,
    dtype: torch.dtype,
    rate: float,
    sizes: Sizes,
    device: torch.device,
) -> dict[str, object]:
    """Times a batch of sequences of one length, forward, and forward with backward."""
    heads = sizes.heads
    sequences = max(1, sizes.tokens // length)
    tokens = sequences * length
    packed = torch.randn(tokens, 3 * heads, width, device=device, dtype=dtype, requires_grad=True)
    bias = torch.randn(heads, length, device=device, requires_grad=True)
    grad = torch.randn(tokens, heads, width, device=device, dtype=dtype)
    offsets_B1 = torch.arange(sequences + 1, device=device) * length
    order_B = longest_first(offsets_B1)

    def forward() -> torch.Tensor:
        q, k, v = packed.chunk(3, 1)
        return hstu_attention(
            q, k, v, offsets_B1, bias, float(length), width**-0.5, order_B=order_B
        )

    def both() -> None:
        packed.grad = bias.grad = None
        forward().backward(grad)

    with torch.no_grad():
        forward_seconds = device_seconds(forward, device, sizes.repeats)
    both_seconds = device_seconds(both, device, sizes.repeats)
    backward_seconds = max(both_seconds - forward_seconds, 1e-9)

    product = 2.0 * width * heads * sequences * length * (length + 1) / 2
    forward_rate = 2 * product / forward_seconds
    backward_rate = 4 * product / backward_seconds
    return {
        "sequences": sequences,
        "forward, ms": 1e3 * forward_seconds,
        "forward, TFLOP/s": forward_rate / 1e12,
        "forward, share": forward_rate / rate,
        "backward, ms": 1e3 * backward_seconds,
        "backward, TFLOP/s": backward_rate / 1e12,
        "backward, share": backward_rate / rate,
        "peak, GB": peak_bytes(both, device) / 1e9,
    }
