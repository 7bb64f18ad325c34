"""What is missing is run, nothing twice; what fails does not stop the rest and is tried again."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from small_experiment import Small

from torchrec_priors.errors import UserError
from torchrec_priors.experiments.matrix import Cell
from torchrec_priors.experiments.runner import lock
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData


@pytest.fixture
def small(tmp_path, small_data):
    return Small(tmp_path, small_data)


OF_ONE = [
    ("evaluate", "one-seed0", "one-again"),
    ("evaluate", "one-seed0", None),
    ("train", "one-seed0", None),
]


def test_every_run_is_trained_once_and_evaluated_for_each_of_its_cells(small):
    assert small.run() == {}
    asked = small.launcher.asked()
    assert [call for call in asked if call[1] == "one-seed0"] == OF_ONE
    assert len(asked) == 10
    assert small.run() == {}
    assert small.launcher.asked() == [], "everything is done"


def test_both_apps_get_the_number_of_threads(small):
    small.run(threads=3)
    assert small.launcher.threads == {("train", 3), ("evaluate", 3)}


def test_another_split_needs_evaluations_alone(small):
    small.run()
    small.launcher.asked()
    small.run(split="test")
    assert {call[0] for call in small.launcher.asked()} == {"evaluate"}


def test_what_fails_is_told_by_cell_and_seed_and_tried_again(small):
    small.launcher.broken = {"one-seed1": "train gave 1: no memory"}
    failures = small.run()
    assert failures == dict.fromkeys([("one", 1), ("one again", 1)], "train gave 1: no memory")
    assert len(small.launcher.asked()) == 8, "the rest was run"
    small.launcher.broken = {"evaluate": "evaluate gave 1: no disk"}
    assert small.run() == dict.fromkeys([("one", 1), ("one again", 1)], "evaluate gave 1: no disk")
    assert [call[0] for call in small.launcher.asked()] == ["evaluate", "evaluate", "train"]
    small.launcher.broken = {}
    assert small.run() == {}
    assert [call[0] for call in small.launcher.asked()] == ["evaluate", "evaluate"]


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("eval/validation/metrics.json", ["evaluate"]),
        ("eval/validation/predictions.parquet", ["evaluate"]),
        ("summary.json", ["evaluate", "evaluate", "train"]),
    ],
)
def test_a_run_that_was_cut_goes_on_from_what_is_whole(small, file, again):
    small.run()
    small.launcher.asked()
    (small.out / "runs" / "one-seed0" / file).unlink()
    small.run()
    asked = small.launcher.asked()
    assert {call[1] for call in asked} == {"one-seed0"}
    assert [call[0] for call in asked] == again
    assert small.run() == {}
    assert small.launcher.asked() == []


def test_an_evaluation_of_an_earlier_checkpoint_does_not_count(small):
    small.run()
    small.launcher.asked()
    file = small.out / "runs/one-seed0/eval/validation/metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"checkpoint": "step-00000000"}))
    small.run()
    assert small.launcher.asked() == [("evaluate", "one-seed0", None)]


def test_a_run_of_another_configuration_is_not_touched(small):
    small.runner().check(small.plan())
    small.run()
    small.runner().check(small.plan())
    with pytest.raises(
        UserError,
        match=r"one-seed0' holds .* configuration \(training.steps = 1000 there, 3 here\)",
    ):
        small.runner().check(small.plan(**{"training.steps": 3}))


def test_without_weights_only_what_needs_them_is_trained_again(small):
    small.run(keep_weights=False)
    assert not list(small.out.glob("runs/*/checkpoints"))
    small.launcher.asked()
    small.run(keep_weights=False)
    assert small.launcher.asked() == []
    small.cells.append(
        Cell("small batches", {"evaluation.batch": 2, "model.horizon": 2}, "small batches")
    )
    small.run(keep_weights=False)
    assert {call[:2] for call in small.launcher.asked()} == {
        (app, f"two-seed{seed}") for app in ("train", "evaluate") for seed in (0, 1)
    }


def test_a_base_configuration_that_changes_meanwhile_is_noticed(small):
    small.base.write_text("[loss]\ngamma = 0.25\n")  # after it was planned
    assert "left no summary of this configuration" in small.run()["one", 0]


def test_an_interruption_ends_what_is_running(small):
    small.launcher.broken = {"one-seed0": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        small.run()
    assert small.launcher.stopped


def test_a_folder_is_held_until_all_who_inherit_it_have_ended(tmp_path):
    held = lock(tmp_path / "out")
    with pytest.raises(UserError, match="is in use by another experiment"):
        lock(tmp_path / "out")
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, pass_fds=[held]
    ) as left:
        os.close(held)
        with pytest.raises(UserError, match="is in use"):
            lock(tmp_path / "out")
        left.stdin.close()
    os.close(lock(tmp_path / "out"))


def test_other_data_is_refused(small, small_raw, tmp_path):
    small.run()
    shutil.copytree(small_raw, tmp_path / "raw")
    prepare(Settings("movielens", tmp_path / "raw", 3), tmp_path / "other")
    small.data = PreparedData(tmp_path / "other")
    with pytest.raises(UserError, match="was trained on other data"):
        small.runner().check(small.plan())
