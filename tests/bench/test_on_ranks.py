"""Processes as ranks: what they say last, and nobody waits for one that failed."""

import time

import pytest

from torchrec_priors.bench.on_ranks import last_lines

MODULE = """
import os, sys, time
rank = os.environ["RANK"]
print("x" * 100_000)
if sys.argv[1] == "fail":
    sys.exit("no such device") if rank == "1" else time.sleep(600)
print(rank, os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"])
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "a_rank.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "a_rank"


def test_each_rank_says_who_it_is_after_any_amount_of_words(module):
    assert last_lines(3, "three", module, ["well"], 1) == ["0 3 1", "1 3 1", "2 3 1"]


def test_a_rank_that_fails_ends_the_others_and_is_named(module):
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"(?s)two, rank 1: exit code 1\n.*no such device"):
        last_lines(2, "two", module, ["fail"], 1)
    assert time.monotonic() - started < 300
