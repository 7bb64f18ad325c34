"""`tools/heads_by_offset.py` as a command."""

import re
import sys

import pytest
import tiny
from command_line import REPOSITORY, run

TOOL = [sys.executable, REPOSITORY / "tools" / "heads_by_offset.py"]


@pytest.mark.slow
def test_each_head_has_a_line_with_a_figure_for_each_offset(small_data, tmp_path):
    training = {"steps": 4, "evaluate_every": 4}
    for name, tree in (("one", []), ("two", ["temporal:2"])):
        config = tiny.config(priors={"tree": tree}, training=training)
        tiny.train(config, small_data, tmp_path / name)
    command = [*TOOL, "--users", "20", tmp_path / "one", tmp_path / "two"]
    shown = run(command, cwd=REPOSITORY).stdout.splitlines()
    names = [line.strip() if line[0] != " " else line[2:32].strip() for line in shown]
    assert names == ["one", "all heads", "two", "all heads", "short-term", "long-term"]
    figures = [re.findall(r"\d\.\d{4}", line) for line in shown]
    horizon = len(figures[1])
    assert [len(line) for line in figures] == [0, horizon, 0, horizon, horizon, horizon]
