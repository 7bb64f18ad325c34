"""Kernels of a GPU launch what they say, by Triton's interpreter, and compile for GPUs that are not there.

`pip install triton` (the extra `triton`) where torch has brought none.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip(
    "triton", reason="triton is not installed: pip install 'torchrec-priors[triton]'"
)

from torch.utils._python_dispatch import _disable_current_modes
from triton.runtime.interpreter import InterpretedFunction

from torchrec_priors.bench.launches import Launches, counted
from torchrec_priors.ops.best_tiles import TILE, TILE_MAXIMA, TILE_SCORES, TiledItems
from torchrec_priors.ops.gated_norm import NORM_BACKWARD, NORM_FORWARD
from torchrec_priors.ops.hstu_attention_gpu import ATTENTION_BACKWARD, ATTENTION_FORWARD
from torchrec_priors.ops.in_group_sets import NegativeSets, QuerySets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import SOFTMAX
from torchrec_priors.ops.keyed_dropout import DROP
from torchrec_priors.ops.residual_adapters import ADAPTERS_BACKWARD, ADAPTERS_FORWARD, DeviceRuns


def _calls():
    """(kernel, arguments) of every kernel, at tiny sizes."""
    x, grad = torch.randn(2, 5, 16)
    weight, bias, key = torch.randn(16), torch.randn(16), torch.arange(5)
    norm = (x, grad, weight, bias, key)
    index = torch.zeros(5, dtype=torch.int64)
    runs = DeviceRuns(
        index, index[:1], torch.tensor([0, 5]), torch.tensor([0]), torch.tensor([0, 1])
    )
    adapters = (x, torch.randn(1, 16, 16), torch.randn(1, 16), index, runs)

    qkv = torch.randn(3, 5, 2, 16)
    offsets, order = torch.tensor([0, 2, 5]), torch.tensor([1, 0])
    saved = (*qkv, torch.randn(2, 8), None, offsets, order, None)

    negatives = NegativeSets(torch.randn(4, 16), torch.arange(4), [3], 1).on_device()
    positives = WeighedPositives(x, index, index, torch.arange(5), torch.ones(5))
    sets = QuerySets.of([5], x.device)
    items = TiledItems(
        torch.zeros(TILE, dtype=torch.int32),
        torch.zeros(1, dtype=torch.int32),
        torch.tensor([0, 1]),
        x,
    )
    query, tile = torch.randn(3, 1, 16), torch.zeros(3, 1, dtype=torch.int64)
    return [
        (ADAPTERS_FORWARD, adapters),
        (ADAPTERS_BACKWARD, (*adapters, grad)),
        (ATTENTION_FORWARD, (saved, 8.0, 0.25)),
        (ATTENTION_BACKWARD, (saved, 8.0, 0.25, torch.randn(5, 2, 16))),
        (NORM_FORWARD, (*norm, 1e-5, 7, 0.5)),
        (NORM_BACKWARD, (*norm, torch.ones(2, 5), 7, 0.5, grad)),
        (DROP, (x, key, 7, 0.5)),
        (
            SOFTMAX,
            (x, sets.set_P, sets.first_S1, torch.arange(6), positives, negatives, None, True),
        ),
        (TILE_MAXIMA, (items, query, torch.zeros(3, 1))),
        (TILE_SCORES, (items, query, torch.zeros(3, 1), tile)),
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
def test_a_call_launches_as_many_kernels_as_it_says(monkeypatch):
    launched = []
    run = InterpretedFunction.run

    def count(self, *arguments, **options):
        launched.append(self)
        with _disable_current_modes():
            return run(self, *arguments, **options)

    monkeypatch.setattr(InterpretedFunction, "run", count)
    for kernel, arguments in _calls():
        launched.clear()
        counts = Launches(kernel.name)
        triton = kernel.triton()
        with counted(counts):
            triton(*arguments)
        assert len(launched) + counts.total == kernel.launches, (kernel.name, counts.operations)
        assert not counts.waits, kernel.name


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "sm_100"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_kernels_compile_for_a_gpu_and_fit_it(target, dtype):
    """In a process of its own, where the kernels are no functions of the interpreter."""
    script = Path(__file__).parents[2] / "tools" / "compile_kernels.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(script), target, dtype, "128"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert len(rows) == 12
    for *kernel, _warps, shared, registers, stack in rows:
        assert 0 < int(registers) <= 255, kernel
        assert 0 <= int(shared) <= 227 * 1024, kernel
        assert int(stack) <= 512, kernel
