"""Memory that a step frees is there for the next one without new pages."""

import os
import resource
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys, torch
from torchrec_priors.common.memory import keep_freed_memory
how, size = sys.argv[1], int(sys.argv[2])
if how != "given back" and not keep_freed_memory(of_any_size=how == "kept, of any size"):
    sys.exit(3)
def step():
    return len([torch.ones(size) for _ in range(4)])  # all at the same time
for _ in range(10):  # the heap finds its size within a few: blocks between others leave gaps at first
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how, size):
    """Returns the page faults of 5 steps, each with 4 tensors of `size` numbers."""
    command = [sys.executable, "-c", _FAULTS, how, str(size)]
    fixed = {
        name: str(1 << 17) for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    }  # where glibc begins
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **fixed}
    )
    if ended.returncode == 3:
        pytest.skip("the C library is not glibc")
    return int(ended.stdout)


def _pages(size):
    return 5 * 4 * 4 * size // resource.getpagesize()


@pytest.mark.slow
def test_steps_ask_for_no_pages_again():
    size = 4 << 20
    assert _faults("kept", size) < _pages(size) / 10
    assert _faults("given back", size) > _pages(size) / 2, "the test sees too little"


@pytest.mark.slow
def test_blocks_of_more_than_32_mb_are_kept_in_training():
    size = 9 << 20
    assert _faults("kept, of any size", size) < _pages(size) / 10
    assert _faults("kept", size) > _pages(size) / 2, "a service gives its catalogue back"
