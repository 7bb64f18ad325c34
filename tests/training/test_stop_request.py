"""A signal ends a run at the end of a step or within an evaluation, and the same command ends with the same numbers."""

import os
import signal

import pytest
import tiny
import torch
from run_files import logged
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from torchrec_priors.errors import StoppedError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.training import loop, trainer
from torchrec_priors.training.stop_request import StopRequest

CONFIG = tiny.config(
    model={"context": 10},
    training={"steps": 9, "batch": 8, "evaluate_every": 3, "patience": 0},
)


def _numbers(run, folder):
    """The logged lines but for times, and the last checkpoint's tensors, by way of a file in a folder."""
    dcp_to_torch_save(run / "checkpoints/step-00000009", folder / "flat.pt")
    state = torch.load(folder / "flat.pt", weights_only=False)
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in logged(run)]
    return lines, state["model"]


@pytest.fixture(scope="module")
def data(small_data):
    return PreparedData(small_data)


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    return _numbers(trained(CONFIG), tmp_path_factory.mktemp("flat"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_within_a_step_is_heeded_at_its_end(data, whole, tmp_path, monkeypatch, number):
    step = trainer.step

    def interrupted(built, optimizers, batch, **more):
        if batch.step == 4:
            os.kill(os.getpid(), number)
            more["flags"] = run_flags()  # as another rank would tell of it in the same step
        return step(built, optimizers, batch, **more)

    requests = []
    monkeypatch.setattr(loop, "StopRequest", lambda: requests.append(StopRequest()) or requests[0])

    def run_flags():
        return requests[0].flags()

    monkeypatch.setattr(trainer, "step", interrupted)
    with pytest.raises(
        StoppedError, match=f"stopped by {number.name} at step 5 of 9: run the same command"
    ) as stopped:
        tiny.train(CONFIG, data, tmp_path / "run")
    assert stopped.value.by == number
    assert (tmp_path / "run/checkpoints/step-00000005").is_dir()
    monkeypatch.undo()
    tiny.train(CONFIG, data, tmp_path / "run")
    _same(_numbers(tmp_path / "run", tmp_path), whole)


def test_a_signal_within_an_evaluation_gives_it_up_and_it_is_made_later(
    data, whole, tmp_path, monkeypatch
):
    evaluate = loop.evaluate

    def interrupted(*arguments, progress, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments, progress=progress, **more)

    monkeypatch.setattr(loop, "evaluate", interrupted)
    for _ in range(2):  # the second time it goes on with the evaluation
        with pytest.raises(StoppedError, match="stopped by SIGTERM at step 3 of 9"):
            tiny.train(CONFIG, data, tmp_path / "run")
    monkeypatch.undo()
    tiny.train(CONFIG, data, tmp_path / "run")
    _same(_numbers(tmp_path / "run", tmp_path), whole)


def _same(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        assert torch.equal(value, other[1][name]), name


def test_a_second_interrupt_ends_at_once_without_a_launcher_alone(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    request = StopRequest()
    with request.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert request.flags() == [False, True]
        monkeypatch.setenv("RANK", "0")
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.delenv("RANK")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
