"""Two nodes, each a machine of its own to what runs there, train as two processes of one machine do."""

import contextlib
import os
import signal
import time

import pytest
from command_line import BIN, REPOSITORY, app
from machines import two_machines, why_not
from run_files import logged
from torchx.specs import macros
from torchx.specs.builders import materialize_appdef
from torchx.specs.finder import get_component

STEPS = 60
SETTINGS = ["model.dim=8", "encoder.layers=1", "encoder.dropout=0.2", f"training.steps={STEPS}", "training.batch=8",
            "training.evaluate_every=20", "training.log_every=1", "training.checkpoint_seconds=0"]  # fmt: skip
TWICE = ["--env", "PET_MAX_RESTARTS=2"]
_REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(_REASON is not None, reason=str(_REASON))]


@pytest.fixture
def machines(tmp_path):
    with two_machines(tmp_path) as machines:
        yield machines


@pytest.fixture(scope="module")
def on_one_node(small_data, tmp_path_factory):
    run = tmp_path_factory.mktemp("one") / "run"
    app("train", *_given(small_data, run), ranks=2)
    return run


def _given(data, run):
    config = REPOSITORY / "torchx_configs/small.toml"
    return ["--config", str(config), "--data", str(data), "--run", str(run), *SETTINGS]


def _start(machine, number, data, run, *more):
    """What a scheduler does with the component: the same command on every node, the first one's name in a variable."""
    component = get_component(str(REPOSITORY / "components/train.py") + ":train").fn
    (role,) = materialize_appdef(
        component, ["-j", "2x1", "--cpu", "1", *more, *_given(data, run)]
    ).roles
    node = macros.Values("", "two-nodes", str(number), rank0_env="TORCHX_RANK0_HOST").apply(role)
    env = {
        **os.environ,
        **node.env,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "TORCHX_RANK0_HOST": "node0",
    }
    return machine.start([node.entrypoint, *node.args], env, run.parent / f"{machine.name}.log")


def _finish(started, folder):
    codes = [node.wait(240) for node in started]
    assert codes == [0, 0], "\n".join(log.read_text()[-4000:] for log in folder.glob("node*.log"))


def _results(run):
    lines = logged(run)
    return [
        {name: value for name, value in line.items() if "seconds" not in name} for line in lines
    ]


def test_the_same_losses_and_metrics(machines, small_data, on_one_node, tmp_path):
    run = tmp_path / "run"
    _finish(
        [_start(machine, number, small_data, run) for number, machine in enumerate(machines)],
        tmp_path,
    )
    assert _results(run) == _results(on_one_node)


def test_a_killed_rank_is_started_again_within_the_budget(
    machines, small_data, on_one_node, tmp_path
):
    run = tmp_path / "run"
    started = [
        _start(machine, number, small_data, run, *TWICE) for number, machine in enumerate(machines)
    ]
    _wait_for_step(STEPS // 2, run, started)
    (rank,) = machines[1].processes(ranks_alone=True)
    os.kill(rank, signal.SIGKILL)
    _finish(started, tmp_path)
    assert "resuming" in (tmp_path / "node0.log").read_text()
    assert _results(run) == _results(on_one_node)


def test_a_node_that_was_lost_joins_again(machines, small_data, on_one_node, tmp_path):
    """Its launcher is killed with its rank, and the scheduler starts the node again: the other one waits for it."""
    run = tmp_path / "run"
    first, second = (
        _start(machine, number, small_data, run, *TWICE) for number, machine in enumerate(machines)
    )
    _wait_for_step(STEPS // 2, run, [first, second])
    for process in machines[1].processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert second.wait(60) != 0
    again = _start(machines[1], 1, small_data, run, *TWICE)
    _finish([first, again], tmp_path)
    assert "resuming" in (tmp_path / "node0.log").read_text()
    assert _results(run) == _results(on_one_node)


def _wait_for_step(step, run, started):
    deadline = time.monotonic() + 200
    while (
        not (run / "metrics.jsonl").exists()
        or f'"step": {step},' not in (run / "metrics.jsonl").read_text()
    ):
        assert time.monotonic() < deadline
        assert all(node.poll() is None for node in started)
        time.sleep(0.05)
