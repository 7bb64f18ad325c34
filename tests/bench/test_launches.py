"""What a GPU would be given: kernels of a step and of a search, and waits of its host, are few and do not grow."""

from dataclasses import replace

import pytest
import torch

from torchrec_priors.bench import launches
from torchrec_priors.bench.launches import Launches, counted, launches_of
from torchrec_priors.bench.shapes import SHAPES
from torchrec_priors.ops.gpu_kernel import GpuKernel, has_kernels, on_gpu, pretended_gpu

# A step's kernels do not depend on these sizes.
SMALL = {"sequences": 5, "context": 12, "items": 300, "negatives": 44, "dim": 16, "heads": 2}
STEPS = ("merrec", "pixel8m", "ebnerd")


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    found = {}
    for name in STEPS:
        shape = replace(SHAPES[name], **SMALL)
        found[name] = launches_of(shape, tmp_path_factory.mktemp(name))
    few_heads = replace(SHAPES["ebnerd"], **{**SMALL, "groups": 1})
    found["8 heads"] = launches_of(few_heads, tmp_path_factory.mktemp("few"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_a_step_has_few_kernels_and_waits_twice(steps, name):
    counts = steps[name]
    assert counts.total <= 350, launches.table([counts])
    assert counts.waits_of_step <= 2, launches.table([counts])


@pytest.mark.slow
def test_kernels_do_not_grow_with_heads(steps):
    """`ebnerd` has 88 heads, and 8 with a single community."""
    assert steps["ebnerd"].total <= 1.1 * steps["8 heads"].total


@pytest.mark.slow
def test_kernels_with_hidden_negatives_and_a_gate_do_not_grow_either(tmp_path):
    changes = {"negatives.seen": False, "loss.gate": 1.0}
    counts = []
    for groups in (1, 11):
        shape = replace(SHAPES["ebnerd"], **{**SMALL, "groups": groups})
        counts.append(launches_of(shape, tmp_path / str(groups), changes))
    few, many = counts
    assert many.total <= 1.1 * few.total
    assert many.total <= 440, launches.table([many])
    assert many.waits_of_step <= 3, launches.table([many])


def test_views_and_allocations_are_no_kernels_and_reads_are_waits():
    counts = Launches("a few operations")
    x = torch.arange(6.0)
    with counted(counts):
        y = x.view(2, 3)[1] + torch.empty(3)  # one sum
        y.tolist()
        bool(y[0] > 0)  # one comparison
        torch.nonzero(y)
        y[y > 0]  # one comparison, and a mask as an index
        torch.tensor([1.0])  # one copy
    assert counts.total == 4
    assert sum(counts.waits.values()) == 5


def test_a_kernel_counts_its_launches_and_not_those_of_its_reference():
    calls = []
    kernel = GpuKernel("a_kernel", "no_module", 3, lambda x: x + 1)

    def stand_in(called, arguments):
        calls.append(called.launches)
        return called.reference(*arguments)

    x = torch.zeros(2)
    assert not on_gpu(x)
    with pretended_gpu(stand_in):
        assert on_gpu(x)
        assert has_kernels(x)
        assert kernel(x).tolist() == [1, 1]
    assert calls == [3]
    assert not has_kernels(x)
