"""`bench --shape contention`: busy loops are busy and always end; all kinds of work are measured beside them."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from torchrec_priors.bench.busy_loops import busy_loops
from torchrec_priors.bench.contention import WORKS, Contended, Sizes, as_json, measure_here, table
from torchrec_priors.bench.requests import CASES
from torchrec_priors.bench.shapes import SHAPES

_SMALL = {"sequences": 9, "context": 12, "items": 300, "negatives": 44, "dim": 16, "layers": 1}
_WITHIN = 60.0  # seconds
_ENDS_EARLY = """
import os
from torchrec_priors.bench.busy_loops import busy_loops
with busy_loops(1):
    print(open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
    os._exit(0)
"""


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def _ticks(process: str) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11])


def _becomes_true(condition) -> bool:
    ends = time.monotonic() + _WITHIN
    while not condition() and time.monotonic() < ends:
        time.sleep(0.05)
    return condition()


def test_loops_are_busy_during_the_block_only():
    before = _children()
    with busy_loops(2):
        loops = _children() - before
        assert len(loops) == 2
        started = {loop: _ticks(loop) for loop in loops}
        assert _becomes_true(lambda: all(_ticks(loop) > started[loop] for loop in loops))
    assert _children() == before


def test_loops_end_after_an_error():
    before = _children()

    def fail() -> None:
        with busy_loops(1):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert _children() == before


def test_a_loop_ends_if_its_process_is_gone():
    done = subprocess.run(
        [sys.executable, "-c", _ENDS_EARLY], capture_output=True, text=True, check=True, timeout=120
    )
    (loop,) = done.stdout.split()
    assert _becomes_true(lambda: not Path(f"/proc/{loop}").exists())


@pytest.mark.slow
@pytest.mark.parametrize("work", WORKS)
def test_every_kind_of_work_is_measured_with_threads_and_without(work):
    case = CASES["45 heads"]
    sizes = Sizes(
        step=replace(SHAPES["merrec"], **_SMALL),
        search=replace(SHAPES["retrieval"], sequences=4, items=900, top=30, dim=16),
        requests=replace(case, shape=replace(case.shape, **_SMALL), requests=3),
    )
    before = torch.get_num_threads()
    several, one = measure_here(work, sizes, 1, 2).rows
    assert torch.get_num_threads() == before
    assert (several.threads, one.threads) == (2, 1)
    for row in (several, one):
        assert row.alone_s > 0
        assert len(row.beside) == 2
        assert min(row.beside) > 0


def test_the_table_has_ratios_and_the_load():
    rows = [
        Contended("search", 2, 1.0, [2.0, 3.0], 0.2),
        Contended("search", 1, 2.0, [1.0, 1.5], 0.2),
    ]
    text = table(rows)
    assert "| search | 2 | 1.000 s | 2.0 x | 3.0 x | 0.50 / 1.00 / 1.00 |" in text
    assert "| search | 1 | 2.000 s | 1.0 x | 1.5 x | 1.00 / 1.00 / 1.00 |" in text
    assert "load of the machine before: 0.2" in text
    assert json.loads(as_json(rows, {"threads": 2}))["rows"][0]["beside"] == [2.0, 3.0]
