"""Ranks that do not come, places where nobody is, and ranks that are told different things: said in time, and who."""

import http.server
import os
import signal
import threading
import time
from datetime import timedelta
from unittest.mock import patch

import pytest
import tiny
from few_items import prepare_few_items
from forks import meeting_port
from ranks import run_on_ranks

from torchrec_priors.apps import evaluate
from torchrec_priors.errors import LostRanksError, UserError
from torchrec_priors.metrics.evaluation import evaluate as whole_evaluation
from torchrec_priors.ranks import rendezvous
from torchrec_priors.ranks.process import join
from torchrec_priors.serving.export import export as write_export
from torchrec_priors.serving.run import load_run

SHORT = timedelta(seconds=1)
WAIT = 3  # seconds


@pytest.fixture
def told(monkeypatch):
    """Sets what a launcher says."""

    def tell(**variables):
        values = {
            "RANK": 0,
            "WORLD_SIZE": 2,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": meeting_port(),
            **variables,
        }
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return tell


def _refused(kind):
    with pytest.raises(kind) as refused, join(SHORT):
        pass
    return str(refused.value)


@pytest.mark.parametrize(("rank", "missing"), [(0, "ranks 1, 2 of 3"), (2, "rank 0 of 3")])
def test_who_does_not_come_is_named(told, rank, missing):
    told(RANK=rank, WORLD_SIZE=3)
    started = time.monotonic()
    message = _refused(LostRanksError)
    assert time.monotonic() - started < 30
    assert message.startswith(missing)
    assert "did not join within 1 s (training.timeout_seconds)" in message
    assert "`unset RANK WORLD_SIZE`" in message


def test_a_long_wait_says_for_whom_and_how_long(told, monkeypatch, caplog):
    monkeypatch.setattr(rendezvous, "_SAY_AFTER", 0.2)
    told()
    _refused(LostRanksError)
    (said,) = (record.message for record in caplog.records if record.name == rendezvous.__name__)
    assert said.startswith("rank 0 waits for rank 1 of 2 at 127.0.0.1:")
    assert said.endswith(": 1 s at most")


@pytest.mark.slow
def test_a_place_that_is_nowhere_is_named(told):
    told(MASTER_ADDR="nowhere.invalid")
    assert _refused(UserError).startswith(
        "MASTER_ADDR = 'nowhere.invalid' is not the name or address of a machine"
    )
    told(TORCHELASTIC_USE_AGENT_STORE="True")
    assert _refused(UserError).startswith("no launcher listens at 127.0.0.1:")


def test_a_port_that_another_has_is_named(told):
    with http.server.ThreadingHTTPServer(("", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told(MASTER_PORT=server.server_port)
        assert _refused(UserError).startswith(
            f"MASTER_PORT = {server.server_port}: another process uses the port"
        )
        server.shutdown()


def test_one_process_of_a_launcher_needs_no_place(told):
    told(WORLD_SIZE=1, MASTER_ADDR="nowhere.invalid")
    with join(SHORT) as ranks:
        assert ranks.world == 1


def _told_another_number():
    if os.environ["RANK"] == "1":
        os.environ["WORLD_SIZE"] = "3"
    with pytest.raises(UserError) as refused, join(timedelta(seconds=60)):
        pass
    return str(refused.value)


def test_ranks_that_are_told_different_numbers_say_so():
    assert run_on_ranks(2, _told_another_number) == [
        "WORLD_SIZE is 2 for rank 0 and 3 for rank 1: start all ranks alike",
        "WORLD_SIZE is 3 for rank 1 and 2 for rank 0: start all ranks alike",
    ]


def _stop_rank_1():
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGSTOP)


def _serve(run, _):
    with load_run(run) as loaded:
        _stop_rank_1()
        for _ in range(1000):
            loaded.recommend(["i0"], k=2)


def _evaluate(run, _):
    def stopped(*given, **named):
        _stop_rank_1()
        return whole_evaluation(*given, **named)

    with patch("torchrec_priors.api.evaluate.run_evaluation", stopped):
        evaluate.evaluate(run, evaluate.Split.test)


def _export(run, out):
    with load_run(run) as loaded:
        _stop_rank_1()
        write_export(loaded, out)


def _with_rank_1_stopped(read, run, folder):
    """What rank 0 comes to know."""
    rank = int(os.environ["RANK"])
    (folder / str(rank)).write_text(str(os.getpid()))
    try:
        read(run, folder / "out")
    except LostRanksError as lost:
        return str(lost)
    finally:
        if rank == 0:
            os.kill(int((folder / "1").read_text()), signal.SIGCONT)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    training = {"batch": 4, "steps": 1, "evaluate_every": 1, "timeout_seconds": WAIT}
    evaluation = {"filter_seen": False}
    config = tiny.config(model={"horizon": 2}, training=training, evaluation=evaluation)
    tiny.train(config, prepare_few_items(folder), folder / "run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read", "doing"), [(_serve, "recommendations"), (_evaluate, "evaluation"), (_export, "export")]
)
def test_a_stopped_rank_is_named_where_a_run_is_read(read, doing, run, tmp_path):
    message, _ = run_on_ranks(2, _with_rank_1_stopped, read, run, tmp_path)
    assert message == (
        f"rank 1 did not answer within {WAIT} s (training.timeout_seconds) in {doing}: start it again"
    )
    assert not (tmp_path / "out").exists()
