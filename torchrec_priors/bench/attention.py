"""Attention alone, forward and backward, at lengths 64 to 1,024 by Zipf's law: ours beside one padded batch."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from torchrec_priors.bench.ablations import padded_attention
from torchrec_priors.bench.limits import matmul_rate
from torchrec_priors.bench.rows import Row
from torchrec_priors.bench.timed import Timed, peak_bytes
from torchrec_priors.ops.hstu_attention import hstu_attention

Report = Callable[[str], None]

HEADS, WIDTH, SHORTEST, LONGEST, SEQUENCES = 4, 32, 64, 1_024, 16
_VARIANTS = {  # name: (how, sequences, environment)
    "ours": ("ours", SEQUENCES, {}),
    "reference": ("reference", SEQUENCES, {}),
    "without the C++ kernel": ("ours", SEQUENCES, {"TORCHREC_PRIORS_NATIVE": "0"}),
    "4 times the sequences": ("ours", 4 * SEQUENCES, {}),
}


def attention_rows(repeats: int, threads: int, report: Report) -> list[Row]:
    """Each variant in a process of its own; `extra_bytes` are those beyond the inputs."""
    timed = {}
    for name, (how, sequences, environment) in _VARIANTS.items():
        report(f"attention: {name}")
        command = [sys.executable, "-m", __name__, how, str(sequences), str(repeats), str(threads)]
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"attention, {name}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        timed[name] = Timed(**json.loads(done.stdout.strip().splitlines()[-1]))
    return [_row(name, found, timed["reference"]) for name, found in timed.items()]


def lengths(sequences: int) -> list[int]:
    """A length of x as often as 1 / x.

    >>> lengths(4)
    [90, 181, 362, 724]
    """
    return [int(SHORTEST * (LONGEST / SHORTEST) ** ((i + 0.5) / sequences)) for i in range(sequences)]


def time_attention(how: str, sequences: int, repeats: int) -> Timed:
    """Forward and backward, `repeats` times after a first one."""
    attention = hstu_attention if how == "ours" else padded_attention
    length_B = torch.tensor(lengths(sequences))
    offsets_B1 = torch.cumsum(torch.cat([torch.zeros(1, dtype=torch.int64), length_B]), 0)
    torch.manual_seed(0)
    packed = torch.randn(int(offsets_B1[-1]), 3 * HEADS, WIDTH, requires_grad=True)
    bias = torch.randn(HEADS, LONGEST, requires_grad=True)
    weight = torch.randn(len(packed), HEADS, WIDTH)
    before, seconds, results = peak_bytes(), [], []
    for _ in range(repeats + 1):
        packed.grad = bias.grad = None
        started = time.perf_counter()
        q, k, v = packed.chunk(3, 1)
        out = attention(q, k, v, offsets_B1, bias, float(LONGEST), WIDTH**-0.5)
        out.backward(weight)
        seconds.append(time.perf_counter() - started)
        results.append(_checksum(packed))
    pairs = float((length_B.double() * (length_B + 1) / 2).sum())
    peak = peak_bytes()
    flops = 12.0 * HEADS * WIDTH * pairs
    return Timed(seconds[1:], results, peak, len(packed), flops, matmul_rate(), peak - before)


def _checksum(x: Tensor) -> float:
    """Of the gradient."""
    assert x.grad is not None
    return float(x.grad.square().sum())


def _row(name: str, timed: Timed, reference: Timed) -> Row:
    median = statistics.median(timed.seconds)
    quartiles = statistics.quantiles(timed.seconds, n=4) if len(timed.seconds) > 1 else [median] * 3
    alike = timed.tokens == reference.tokens and timed is not reference
    return Row(
        shape="attention",
        variant=name,
        median_s=median,
        spread=(quartiles[2] - quartiles[0]) / 2 / median,
        tokens_per_s=timed.tokens / median,
        peak_bytes=timed.peak_bytes,
        extra_bytes=timed.extra_bytes,
        result=timed.results[0],
        flops=timed.flops,
        matmul_flops_per_s=timed.rate,
        limit_share=timed.flops / timed.rate / median,
        speedup=statistics.median(reference.seconds) / median if alike else None,
        memory_ratio=timed.peak_bytes / reference.peak_bytes if alike else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=["ours", "reference"])
    parser.add_argument("sequences", type=int)
    parser.add_argument("repeats", type=int)
    parser.add_argument("threads", type=int)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(json.dumps(asdict(time_attention(given.how, given.sequences, given.repeats))))  # noqa: T201


if __name__ == "__main__":
    main()
