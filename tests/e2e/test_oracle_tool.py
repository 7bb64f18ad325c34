"""`tools/oracle.py` as a command."""

import sys

import pytest
from command_line import REPOSITORY, app, run

TOOL = [sys.executable, REPOSITORY / "tools" / "oracle.py"]


@pytest.mark.slow
def test_a_generated_log_has_a_table_of_oracles(tmp_path):
    raw = tmp_path / "raw"
    log = ["--dataset", "marketplace", "--generate", 5_000, "--option", "world=mixed"]
    app("prepare", *log, "--raw", raw, "--out", tmp_path / "data")
    shown = run([*TOOL, raw, "--users", "50"], cwd=REPOSITORY).stdout
    assert "all, and the next event types" in shown
    assert shown.splitlines()[-1].startswith("50 users, the last 8 interactions of each")


@pytest.mark.slow
def test_a_folder_without_a_generated_log_is_refused(tmp_path):
    done = run([*TOOL, tmp_path], cwd=REPOSITORY, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
