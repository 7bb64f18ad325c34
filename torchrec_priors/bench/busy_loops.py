"""Other processes that keep cores busy while something is measured."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# A loop ends by itself if the process that started it has ended without ending the loop.
_LOOP = """
import os, sys
started_by = int(sys.argv[1])
print(flush=True)
while os.getppid() == started_by:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Keeps a number of processes busy during the block, which begins when all of them run."""
    command = [sys.executable, "-I", "-S", "-c", _LOOP, str(os.getpid())]
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            loops.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        for loop in loops:
            assert loop.stdout is not None
            loop.stdout.readline()
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
            assert loop.stdout is not None
            loop.stdout.close()
