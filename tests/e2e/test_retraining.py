"""Retraining as a shop does it every day: start from yesterday's run, fit on everything, serve."""

import json

import pytest
from command_line import CONFIG, TINY, app
from run_files import losses

from torchrec_priors.config import load_config

STEPS = [*TINY, "training.steps=4", "training.log_every=1"]


@pytest.fixture(scope="module")
def yesterday(trained):
    return trained(load_config(CONFIG, STEPS))


@pytest.mark.slow
def test_todays_run_starts_from_yesterdays_is_fitted_on_all_and_served(
    yesterday, small_data, tmp_path
):
    run = tmp_path / "today"
    arguments = [
        "--config",
        CONFIG,
        "--data",
        small_data,
        "--run",
        run,
        *STEPS,
        "--fit-all",
        "--init-from",
        yesterday,
    ]
    done = app("train", *arguments)
    assert "started from step-" in done.stderr
    assert "fitted on all interactions" in done.stdout
    started, before = (losses(folder) for folder in (run, yesterday))
    assert started[0] != before[0]
    assert json.loads((run / "summary.json").read_text())["best_step"] == 4

    refused = app("evaluate", "--run", run, "--split", "test", check=False)
    assert refused.returncode == 2
    assert "nothing is left to evaluate on" in refused.stderr
    assert (
        len(json.loads(app("recommend", "--run", run, "--user", "30", "--json").stdout)["items"])
        == 10
    )

    again = app(
        "train", *arguments[:-2]
    )  # without the other run: this one has a checkpoint of its own
    assert "at step 4" in again.stderr
    other = app("train", *arguments[:-1], run, check=False)
    assert other.returncode == 2
    assert "was started from another run" in other.stderr
    nowhere = app("train", *arguments[:-1], tmp_path / "nowhere", check=False)
    assert nowhere.returncode == 2
    assert "there is no folder" in nowhere.stderr
