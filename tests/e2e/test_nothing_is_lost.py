"""A run gives the same numbers every time, and after it was killed."""

import itertools
import json
import random
import time

import pytest
import torch
from command_line import BIN, app
from killing import Victim, kill_all_when
from run_files import logged
from small_movielens import write_movielens
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from torchrec_priors.preparation.prepare import Settings, prepare

pytestmark = pytest.mark.slow

CONFIG = """
[model]
dim = 16
context = 20
horizon = 4
[priors]
tree = ["temporal:2", "genre"]
[encoder]
layers = 1
heads = 2
[negatives]
per_set = 16
[training]
batch = 16
steps = 60
evaluate_every = 20
checkpoint_seconds = 0
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "small.toml"
    file.write_text(CONFIG)
    return file


def _final(folder, tmp_path, steps=60):
    """Every tensor of the last checkpoint, and the logged numbers that are not times."""
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    assert last.name == f"step-{steps:08d}"
    dcp_to_torch_save(last, tmp_path / "flat.pt")
    state = torch.load(tmp_path / "flat.pt", weights_only=False)
    lines = logged(folder)
    return _tensors(state), [
        {name: v for name, v in line.items() if name != "seconds"} for line in lines
    ]


def _tensors(state, prefix=""):
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    if isinstance(state, dict):
        return {
            k: t
            for name, part in state.items()
            for k, t in _tensors(part, f"{prefix}/{name}").items()
        }
    return {}


@pytest.fixture(scope="module")
def uninterrupted(config, small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    app("train", "--config", config, "--data", small_data, "--run", folder, ranks=2)
    return _final(folder, folder.parent)


def _same(first, second):
    tensors, lines = first
    other_tensors, other_lines = second
    assert tensors.keys() == other_tensors.keys()
    assert len(tensors) > 20
    for name, value in tensors.items():
        assert torch.equal(value, other_tensors[name]), name
    assert lines == other_lines


def test_two_runs_of_one_seed_are_identical_to_the_last_bit(
    config, small_data, uninterrupted, tmp_path
):
    app("train", "--config", config, "--data", small_data, "--run", tmp_path / "run", ranks=2)
    _same(_final(tmp_path / "run", tmp_path), uninterrupted)


def test_a_killed_run_goes_on_and_ends_the_same_to_the_last_bit(
    config, small_data, uninterrupted, tmp_path
):
    arguments = ["--config", config, "--data", small_data, "--run", tmp_path / "run"]
    command = [
        BIN / "torchrun",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "torchrec_priors.apps.train",
        "--",
        *arguments,
    ]
    checkpoints = tmp_path / "run" / "checkpoints"
    kill_all_when(lambda: list(checkpoints.glob("step-*[0-9]/.metadata")), command, seconds=120)
    assert not (tmp_path / "run" / "summary.json").exists(), "killed too late to show anything"
    done = app("train", *arguments, ranks=2)
    assert "resuming" in done.stderr
    _same(_final(tmp_path / "run", tmp_path), uninterrupted)


def test_torchrun_goes_on_with_it_where_a_rank_is_killed(
    config, small_data, uninterrupted, tmp_path
):
    run, chance = tmp_path / "run", random.Random()
    arguments = ["--config", config, "--data", small_data]
    victim = Victim(
        run, [*arguments, "training.log_every=1"], tmp_path / "log", restarts=2, every=20
    )
    try:
        print(victim.kill("step", chance, 15))  # shown where the test fails
        assert victim.end() == 0, (tmp_path / "log").read_text()
    finally:
        victim.close()
    assert (tmp_path / "log").read_text().count("resuming") == 1
    tensors, lines = _final(run, tmp_path)
    kept = [line for line in lines if line["step"] % 10 == 0]
    _same((tensors, kept), uninterrupted)
    assert _losses_shown(run) == list(range(1, 61))


@pytest.mark.campaign
def test_it_is_the_same_after_twenty_kills(config, tmp_path):
    """At random moments of steps, evaluations, writing checkpoints and starting, on a data set with longer ones."""
    steps, every, kills = 500, 20, 20
    data, run, log = tmp_path / "data", tmp_path / "run", tmp_path / "log"
    prepare(
        Settings(
            "movielens", write_movielens(tmp_path / "raw", users=400, items=600, longest=120), 8
        ),
        data,
    )
    more = [f"training.steps={steps}", f"training.evaluate_every={every}", "training.log_every=1"]
    arguments = ["--config", config, "--data", data, *more, "training.patience=0"]
    app("train", *arguments, "--run", tmp_path / "whole", ranks=2, timeout=1200)
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    chance = random.Random(seed)
    moments = list(
        itertools.islice(itertools.cycle(["step", "validation", "checkpoint", "start"]), kills)
    )
    chance.shuffle(moments)
    victim = Victim(run, arguments, log, restarts=kills + 5, every=every)
    try:
        for number, moment in enumerate(moments, 1):
            done = victim.kill(moment, chance, number * steps // (kills + 2))
            print(f"kill {number}, {done}", flush=True)
        assert victim.end() == 0, log.read_text()
    finally:
        victim.close()
    _same(_final(run, tmp_path, steps), _final(tmp_path / "whole", tmp_path, steps))
    assert _losses_shown(run) == list(range(1, steps + 1))


def _losses_shown(run):
    """Steps that TensorBoard shows a loss for."""
    events = EventAccumulator(str(run / "events"), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars("loss")]


def test_a_finished_run_is_left_as_it_is(config, small_data, tmp_path):
    arguments = [
        "--config",
        config,
        "--data",
        small_data,
        "--run",
        tmp_path / "run",
        "training.steps=5",
    ]
    first = app("train", *arguments)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    again = app("train", *arguments)
    assert first.stdout == again.stdout
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines


def test_old_checkpoints_are_removed_but_for_the_newest_and_the_best(config, small_data, tmp_path):
    app("train", "--config", config, "--data", small_data, "--run", tmp_path / "run")
    kept = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    best = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())["step"]
    assert len(kept) <= 3
    assert f"step-{best:08d}" in {path.name for path in kept}


def test_a_checkpoint_of_two_ranks_is_evaluated_by_one_process(config, small_data, tmp_path):
    app(
        "train",
        "--config",
        config,
        "--data",
        small_data,
        "--run",
        tmp_path / "run",
        "training.steps=20",
        ranks=2,
    )
    app("evaluate", "--run", tmp_path / "run", "--split", "validation")
    at_the_end = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    evaluated = json.loads((tmp_path / "run" / "eval" / "validation" / "metrics.json").read_text())
    assert evaluated["ndcg@10"] == pytest.approx(at_the_end["validation/ndcg@10"], abs=1e-6)
