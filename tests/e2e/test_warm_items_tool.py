"""`tools/warm_items.py` as a command."""

import re
import sys
from dataclasses import replace

import pytest
import tiny
from command_line import REPOSITORY, run

TOOL = [sys.executable, REPOSITORY / "tools" / "warm_items.py"]


@pytest.fixture(scope="module")
def runs(small_data, tmp_path_factory):
    """Two seeds of the same model, on a data set in which some items have no training interactions."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        config = tiny.config(training={"steps": 8, "evaluate_every": 8})
        tiny.train(replace(config, seed=seed), small_data, folder / str(seed))
    return folder


@pytest.mark.slow
def test_both_kinds_of_lists_have_figures_and_an_interval(runs):
    shown = run([*TOOL, runs / "0", "--other", runs / "1", "--split", "test"]).stdout
    lines = shown.splitlines()
    assert lines[0].split() == ["ndcg@10", "runs", "others", "difference"]
    for line, lists in zip(lines[1:], ("lists of all items", "lists of warm items"), strict=True):
        assert line.startswith(lists)
        one, other, difference, low, high = map(float, re.findall(r"[+-]?\d\.\d{4}", line))
        assert difference == pytest.approx(other - one, abs=2e-4)
        assert low <= difference <= high


@pytest.mark.slow
def test_a_run_does_not_differ_from_itself(runs):
    shown = run([*TOOL, runs / "0", "--other", runs / "0"]).stdout
    assert shown.count("+0.0000 [+0.0000, +0.0000]") == 2


@pytest.mark.slow
def test_another_number_of_runs_is_an_error(runs):
    done = run([*TOOL, runs / "0", runs / "1", "--other", runs / "1"], check=False)
    assert done.returncode == 2
    assert (
        "2 runs cannot be compared with 1 other ones: give one --other for each run" in done.stderr
    )
