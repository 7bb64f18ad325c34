"""`tools/inside_groups.py` as a command."""

import re
import shutil
import sys

import pytest
import tiny
from command_line import REPOSITORY, run

TOOL = [sys.executable, REPOSITORY / "tools" / "inside_groups.py"]


def _train(data, folder, tree, **more):
    training = {"steps": 4, "evaluate_every": 4}
    tiny.train(tiny.config(priors={"tree": tree}, training=training, **more), data, folder)


@pytest.fixture(scope="module")
def data(small_data, tmp_path_factory):
    """A copy with a prior that gives each film one group."""
    copied = tmp_path_factory.mktemp("grouped") / "data"
    shutil.copytree(small_data, copied)
    add = [sys.executable, "-m", "torchrec_priors.apps", "prior", "graph", "--data", copied]
    run([*add, "--name", "crowd", "--groups", "3", "--min-size", "2"], cwd=REPOSITORY)
    return copied


@pytest.mark.slow
def test_runs_are_shown_side_by_side_and_their_parts_add_up(data, tmp_path):
    _train(data, tmp_path / "one", [])
    _train(data, tmp_path / "men", ["gender"])
    _train(data, tmp_path / "joint", ["crowd"], loss={"softmax": "joint"}, negatives={"logq": True})
    names = ("one", "men", "joint")
    runs = [tmp_path / name for name in names]
    command = [*TOOL, "--prior", "crowd", "--users", "20", *runs]
    shown = run(command, cwd=REPOSITORY).stdout.splitlines()
    for line, name in zip(shown[1:4], names, strict=True):
        assert line.startswith(name)
        bits, between, inside = map(float, re.findall(r"\d+\.\d+", line)[:3])
        assert between + inside == pytest.approx(bits, abs=1e-3)
    assert shown[-1].endswith("targets of 20 users")


@pytest.mark.slow
def test_what_has_no_probabilities_or_no_single_groups_is_rejected(data, tmp_path):
    _train(data, tmp_path / "genres", ["genre"])
    says = {"genre": "exactly one group", "nothing": "nothing", "crowd": "not probabilities"}
    for prior, message in says.items():
        command = [*TOOL, "--prior", prior, tmp_path / "genres"]
        done = run(command, cwd=REPOSITORY, check=False)
        assert done.returncode == 2
        assert message in done.stderr
