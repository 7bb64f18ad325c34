"""Measures whole training steps of a shape at batch 512, with a plain table.

A step is that of `train`, from a batch in pinned memory to changed parameters and rows. It is
first checked: a step of a small batch has the same loss and gradient as on the CPU.
"""

import statistics
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from torchrec_priors.bench.drawn_log import draw_log
from torchrec_priors.bench.gpu.device import (
    TYPES,
    matmul_rate,
    peak_bytes,
    seconds_of,
    with_kernels,
)
from torchrec_priors.bench.gpu.plain_training import PlainTraining
from torchrec_priors.bench.gpu.report import Report
from torchrec_priors.bench.gpu.trace import traced
from torchrec_priors.bench.gpu.waits import count_waits
from torchrec_priors.bench.shapes import SHAPES, Shape

BATCH = 512
_CHECKED = 6  # sequences of the step that is compared with the CPU's
_DROPOUT = 0.2
_REPEATS = {"cuda": 10, "cpu": 1}
_TRACED = {"cuda": 5, "cpu": 1}
_SHOWN = 12  # kernels that are listed
_LIMIT = 1e-3  # of a relative difference between the device and the CPU
_LEAST = 1e-3  # a gradient counts as at least this part of the norm of all gradients

# Without a GPU, the interpreter takes a second for a few hundred programs.
_TINY: dict[str, Any] = {
    "sequences": 2,
    "context": 5,
    "items": 80,
    "groups": 2,
    "negatives": 12,
    "dim": 16,
    "layers": 1,
    "heads": 2,
}


def measure_steps(name: str, device: torch.device, report: Report) -> None:
    """Reports the check, the measures of a step in fp32 and bf16, its waits and its kernels."""
    shape = replace(SHAPES[name], sequences=BATCH)
    if device.type == "cpu":
        shape = replace(shape, **_TINY)
    report("check", _checked(replace(shape, sequences=min(_CHECKED, shape.sequences)), device))

    # The interpreter cannot multiply bfloat16 numbers.
    for precision in ("fp32", "bf16") if device.type == "cuda" else ("fp32",):
        _measured(shape, precision, device, report)


def _rows(shape: Shape) -> torch.Tensor:
    return 0.02 * torch.randn(shape.items, shape.dim, generator=torch.Generator().manual_seed(0))


def _checked(shape: Shape, device: torch.device) -> dict[str, object]:
    """Compares two steps of a small batch with those of the CPU."""
    log = draw_log(shape)
    expected = PlainTraining(shape, log, _rows(shape))
    found = PlainTraining(shape, log, _rows(shape))
    found.move(device)

    differences = []
    for number in range(2):
        slow = expected.step(expected.batch(number))
        with with_kernels(device):
            fast = found.step(found.batch(number))
        differences.append(abs(fast.loss / slow.loss - 1))
    gradients = _gradient_error(found.model, expected.model)
    return {
        "sequences": shape.sequences,
        "loss": slow.loss,
        "largest difference of losses": max(differences),
        "largest error of a gradient": gradients,
        "ok": max(differences) < _LIMIT and gradients < _LIMIT,
    }


def _gradient_error(found: nn.Module, expected: nn.Module) -> float:
    """Returns the largest error of the gradient of a parameter, relative to its norm.

    Gradients far below that of all parameters have too few digits for a comparison.
    """
    pairs = []
    for (name, parameter), other in zip(
        expected.named_parameters(), found.parameters(), strict=True
    ):
        assert parameter.grad is not None, name
        assert other.grad is not None, name
        pairs.append((other.grad.cpu(), parameter.grad))

    norms = torch.stack([torch.linalg.vector_norm(slow) for _, slow in pairs])
    least = _LEAST * float(torch.linalg.vector_norm(norms))
    return max(
        float(torch.linalg.vector_norm(fast - slow)) / max(float(norm), least)
        for (fast, slow), norm in zip(pairs, norms, strict=True)
    )


def _measured(shape: Shape, precision: str, device: torch.device, report: Report) -> None:
    """Reports the measures of steps in a precision, and where the host waits."""
    training = PlainTraining(
        shape, draw_log(shape), _rows(shape), precision=TYPES[precision], dropout=_DROPOUT
    )
    flops = training.flops(training.batch(0))
    training.move(device)
    batches = [training.batch(number) for number in range(2)]
    losses: list[float] = []

    def run() -> None:
        # Two batches alternate, so that no step finds its vectors in the cache.
        losses.append(training.step(batches[len(losses) % 2]).loss)

    with with_kernels(device):
        repeats = _REPEATS[device.type]
        seconds = seconds_of(run, device, repeats, warm_up=repeats - 1)
        peak = peak_bytes(run, device)
        waits = count_waits(run, device)
        repeats = _TRACED[device.type]
        busy = traced(run, device, repeats)

    second = statistics.median(seconds)
    rate = matmul_rate(device, TYPES[precision])
    report(
        "steps",
        {
            "precision": precision,
            "batch": shape.sequences,
            "tokens": training.tokens,
            "ms": 1e3 * second,
            "slowest, ms": 1e3 * max(seconds),
            "tokens/s": training.tokens / second,
            "kernels": busy.kernels / repeats,
            "copies and fills": busy.copies / repeats,
            "host waits": sum(waits.values()),
            "busy, ms": 1e3 * busy.busy / repeats,
            "idle share": busy.idle_share,
            "FLOP share of the rate": flops / second / rate,
            "peak, GB": peak / 1e9,
            "table, GB": training.model.table.rows_Rd.nbytes / 1e9,
            "first loss": losses[0],
            "last loss": losses[-1],
        },
    )
    for place, number in sorted(waits.items()):
        report("host waits", {"precision": precision, "place": place, "number": number})
    for name in sorted(busy.seconds_of, key=lambda name: -busy.seconds_of[name])[:_SHOWN]:
        report(
            "slowest kernels",
            {
                "precision": precision,
                "kernel": name[:80],
                "calls": busy.calls_of[name] / repeats,
                "ms": 1e3 * busy.seconds_of[name] / repeats,
                "share of busy": busy.seconds_of[name] / busy.busy,
            },
        )
