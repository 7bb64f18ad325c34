"""Trackers show the curves of `metrics.jsonl`, on rank 0, and never end a training."""

import json
import logging
import struct
import threading

import pytest
import tiny

import torchrec_priors as tp
from torchrec_priors.errors import UserError
from torchrec_priors.training.run.log_lines import read_lines
from torchrec_priors.training.tracking import tracking
from torchrec_priors.training.tracking.tracker import TrackedRun
from torchrec_priors.training.tracking.tracking import Tracking, read_trackers

VALUES = tiny.settings(priors={"tree": []})
RUN = TrackedRun("run", "0" * 32, None, 0, {"model.dim": 8})


def _logged(run):
    """(name, step) -> value, of metrics.jsonl."""
    return {
        (name, values["step"]): value
        for _, values in read_lines(run / "metrics.jsonl")
        for name, value in values.items()
        if name not in ("step", "crc32") and isinstance(value, int | float)
    }


def _on_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        (name, point.step): point.value
        for name in events.Tags()["scalars"]
        for point in events.Scalars(name)
    }


def _on_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(folder.as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'torchrec_priors'")
    (run,) = client.search_runs([experiment.experiment_id])
    curves = {
        (name, point.step): point.value
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    }
    return curves, run.data.params, run.info.status


def test_tensorboard_has_the_curves_of_the_file(small_data, tmp_path):
    tp.train(VALUES, small_data, tmp_path / "run", track=f"tensorboard:{tmp_path / 'board'}")
    expected = _logged(tmp_path / "run")
    assert _on_tensorboard(tmp_path / "board/run") == pytest.approx(expected, rel=1e-6)
    assert _on_tensorboard(tmp_path / "run/events") == pytest.approx(expected, rel=1e-6)


def test_mlflow_shows_the_same_curve_as_tensorboard_also_after_resuming(small_data, tmp_path):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    from torchrec_priors.training.tracking.on_mlflow import _key

    trackers = [f"tensorboard:{tmp_path / 'board'}", f"mlflow:{tmp_path / 'mlruns'}"]
    run = tmp_path / "run"

    def stop(step):
        if step.step == 3:
            raise RuntimeError("an interrupted training")

    with pytest.raises(RuntimeError, match="interrupted"):
        tp.train(VALUES, small_data, run, track=trackers, on_step=stop)
    tp.train(VALUES, small_data, run, track=trackers)

    curves, parameters, status = _on_mlflow(tmp_path / "mlruns")
    logged = _logged(run)
    steps = {step: value for (name, step), value in curves.items() if name == "loss"}
    board = _on_tensorboard(tmp_path / "board/run")
    assert steps == {step: value for (name, step), value in logged.items() if name == "loss"}
    assert steps == pytest.approx(
        {step: value for (name, step), value in board.items() if name == "loss"}, rel=1e-6
    )
    assert {name for name, _ in curves} == {_key(name) for name, _ in logged}
    ndcg = {
        step: value for (name, step), value in curves.items() if name == "validation/ndcg_at_10"
    }
    assert ndcg[4] == logged["validation/ndcg@10", 4]
    assert parameters["model.dim"] == "8"
    assert parameters["data.name"] == "movielens"
    assert status == "FINISHED"


def _on_wandb(folder):
    """The curves in the file of an offline run: records in blocks, as in a log of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    curves = {}
    place = 7  # the length of the file's header, and of a part's
    record = b""
    while place + 7 <= len(content):
        left_in_block = 32_768 - place % 32_768
        if left_in_block < 7:
            place += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        place += 7 + length
        record += content[place - length : place]
        if kind in (2, 3):  # the first part, or one in the middle
            continue
        history = Record.FromString(record).history
        record = b""
        values = {item.key or "/".join(item.nested_key): item.value_json for item in history.item}
        for name, value in values.items():
            curves[name, history.step.num] = json.loads(value)
    return curves


def test_wandb_shows_the_same_curve_as_tensorboard(small_data, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    trackers = [f"tensorboard:{tmp_path / 'board'}", "wandb:shop"]
    tp.train(VALUES, small_data, tmp_path / "run", track=trackers)

    board = _on_tensorboard(tmp_path / "board/run")
    curves = {key: value for key, value in _on_wandb(tmp_path).items() if key in board}
    assert curves == pytest.approx(board, rel=1e-6)
    assert ("validation/ndcg@10", 4) in curves


class _Noting:
    """A tracker that keeps what it gets."""

    calls: list = []  # noqa: RUF012

    def __init__(self, place, run):
        assert run is RUN
        self.calls.append(("place", place))

    def log(self, step, values):
        self.calls.append((step, values))

    def finish(self, summary):
        self.calls.append(("end", summary))


class _Failing(_Noting):
    def log(self, step, values):
        raise OSError(f"no answer in step {step}\nand more")


@pytest.fixture
def pretend(monkeypatch):
    """pretend(tracker_class): what `--track mine` means."""

    def use(tracker_class):
        monkeypatch.setitem(
            tracking._TRACKERS, "mine", ("on_tensorboard", "Mine", "json", "nothing")
        )
        module = tracking.importlib.import_module(
            "torchrec_priors.training.tracking.on_tensorboard"
        )
        monkeypatch.setattr(module, "Mine", tracker_class, raising=False)
        return read_trackers(["mine:a:b"])

    return use


def test_a_tracker_gets_numbers_only_and_all_of_them(pretend):
    _Noting.calls.clear()
    trackers = Tracking(pretend(_Noting), RUN)
    trackers.log(3, {"loss": 1.5, "note": "text", "users": None, "seconds": 2})
    trackers.finish({"steps": 3, "stopped": "end"})
    numbers = {"loss": 1.5, "seconds": 2}
    assert _Noting.calls == [("place", "a:b"), (3, numbers), ("end", {"steps": 3})]


def test_a_tracker_that_fails_says_so_once(pretend, caplog):
    with caplog.at_level(logging.WARNING, "torchrec_priors"):
        trackers = Tracking(pretend(_Failing), RUN)
        for step in range(5):
            trackers.log(step, {"loss": 1.0})
        trackers.finish({})
    (said,) = caplog.messages
    assert said.startswith("warning: --track mine: no answer in step 0: nothing more")


def test_a_tracker_that_hangs_ends_with_the_training(pretend, monkeypatch, caplog):
    freed = threading.Event()

    class Hanging(_Noting):
        def log(self, step, values):
            freed.wait(30)

    monkeypatch.setattr(tracking, "_PATIENCE", 0.05)
    trackers = Tracking(pretend(Hanging), RUN)
    trackers.log(1, {"loss": 1.0})
    trackers.finish({})
    freed.set()
    assert "it has not answered" in caplog.text


def test_mistakes_are_said_before_the_training(monkeypatch):
    with pytest.raises(UserError, match="no tracker 'tensorbord': did you mean 'tensorboard'"):
        read_trackers(["tensorbord:x"])
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'torchrec-priors\[wandb\]'"):
        read_trackers(["wandb"])
