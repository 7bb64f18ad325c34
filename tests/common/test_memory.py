"""Memory that a step frees is there for the next one without new pages."""

import os
import resource
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys, torch
from torchrec_priors.common.memory import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(3)
def step():
    return len([torch.ones(4 << 20) for _ in range(4)])  # all at the same time
for _ in range(10):  # the heap finds its size within a few: blocks between others leave gaps at first
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how):
    command = [sys.executable, "-c", _FAULTS, how]
    fixed = {
        name: str(1 << 17) for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    }  # where glibc begins
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **fixed}
    )
    if ended.returncode == 3:
        pytest.skip("the C library is not glibc")
    return int(ended.stdout)


@pytest.mark.slow
def test_steps_ask_for_no_pages_again():
    pages = 5 * 4 * (16 << 20) // resource.getpagesize()
    assert _faults("kept") < pages / 10
    assert _faults("given back") > pages / 2, "the test sees too little"
