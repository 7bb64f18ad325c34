"""Decides how long the threads of PyTorch stay awake while they wait for each other.

Each operation of PyTorch that uses several threads ends when the last of them has done its part,
and between two operations all threads but one have nothing to do. GNU's OpenMP, which PyTorch uses,
lets a waiting thread repeat the same test 300,000 times (20 ms on the machine of docs/speed.md)
before the thread sleeps. If another process needs the core meanwhile, this is the time that the
thread for which all wait does not get.

The number of tests is read once, when OpenMP is loaded, so it must be set before torch is imported.
"""

import os
import sys

# Enough for the time between two operations, and little if a core is missing. It is also what
# OpenMP takes when it knows that there are more threads than cores.
_TESTS = "1000"
_CHOICES_OF_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def sleep_soon() -> None:
    """Lets threads that wait sleep after 1,000 tests, in this process and in those it starts.

    If the user has set `GOMP_SPINCOUNT` or `OMP_WAIT_POLICY`, or if torch is already imported, it
    changes nothing.
    """
    if "torch" in sys.modules or any(name in os.environ for name in _CHOICES_OF_USER):
        return
    os.environ["GOMP_SPINCOUNT"] = _TESTS
