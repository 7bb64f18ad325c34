"""Threads that wait sleep soon in every app, unless the user decided otherwise, and not in a notebook."""

import os
import subprocess
import sys

import pytest

from tests.e2e.command_line import REPOSITORY

_LEFT_OUT = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
# Says how threads wait at the moment when torch is imported for the first time, and ends.
_AT_TORCH = """
import os, sys
class AtTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, AtTorch())
"""
# A run in a store is not looked for before torch is imported.
_AS_COMMAND = """
from torchrec_priors.apps.__main__ import main
sys.argv = ["torchrec-priors", "evaluate", "--run", "memory://nowhere", "--split", "test"]
main()
"""
_AS_MODULE = """
import runpy
sys.argv = ["evaluate", "--run", "memory://nowhere", "--split", "test"]
runpy.run_module("torchrec_priors.apps.evaluate", run_name="__main__")
"""
_AS_LIBRARY = """
import torchrec_priors
torchrec_priors.load_run
"""


def _python(code: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env={**kept, **variables},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("start", "variables", "found"),
    [
        (_AS_COMMAND, {}, "1000"),
        (_AS_MODULE, {}, "1000"),
        (_AS_COMMAND, {"GOMP_SPINCOUNT": "7"}, "7"),
        (_AS_COMMAND, {"OMP_WAIT_POLICY": "active"}, "None"),
        (_AS_LIBRARY, {}, "None"),
    ],
)
def test_it_is_decided_before_torch_is_imported(start, variables, found):
    assert _python(_AT_TORCH + start, **variables).stdout.strip() == found


@pytest.mark.slow
def test_openmp_reads_it():
    shown = _python("import torchrec_priors.apps, torch", OMP_DISPLAY_ENV="verbose").stderr
    assert "GOMP_SPINCOUNT = '1000'" in shown
