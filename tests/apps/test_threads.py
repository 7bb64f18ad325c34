"""`--threads` means the same for every app that computes; a busy machine is said where threads would wait."""

import importlib
import inspect
import os

import pytest
import torch

from torchrec_priors.apps.content import Action, content
from torchrec_priors.apps.publish import publish
from torchrec_priors.apps.threads import use_threads
from torchrec_priors.errors import UserError


@pytest.fixture(autouse=True)
def _threads_of_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "app",
    [
        "bench",
        "content",
        "evaluate",
        "experiment",
        "export",
        "plan",
        "publish",
        "recommend",
        "serve",
        "train",
    ],
)
def test_apps_that_compute_have_the_option(app):
    function = getattr(importlib.import_module(f"torchrec_priors.apps.{app}"), app)
    option = inspect.signature(function).parameters["threads"].annotation.__metadata__[0]
    assert "most threads with which each process computes" in option.help


def test_it_is_the_number_of_threads_of_pytorch_and_at_most_the_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    use_threads(3)
    assert torch.get_num_threads() == 3
    use_threads(None)
    assert torch.get_num_threads() == 3
    use_threads(4_096)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("threads", [0, -1, 4_097])
def test_impossible_numbers(threads):
    with pytest.raises(UserError, match=r"--threads must be in \[1, 4096\], not"):
        use_threads(threads)


@pytest.mark.parametrize(
    ("load", "threads", "long", "warned"),
    [
        (2.4, 2, True, True),
        (2.4, 2, False, False),
        (2.4, 1, True, False),
        (1.9, 2, True, False),
    ],
)
def test_what_computes_for_long_says_that_a_busy_machine_makes_threads_wait(
    load, threads, long, warned, monkeypatch, caplog
):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    use_threads(threads, warns=long)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == warned
    if warned:
        assert said[0].startswith("this machine is busy (load 2.4, cores 2): ")
        assert "--threads 1" in said[0]
        assert "\n" not in said[0]


class _AskedFor(Exception):  # noqa: N818
    """What `use_threads` was called with; the app is not needed further."""


@pytest.mark.parametrize("app", ["content", "export", "publish"])
def test_they_compute_with_it(app, small_data, tmp_path, monkeypatch):
    options = {
        "content": {
            "action": Action.ENCODE,
            "data": str(small_data),
            "name": "text",
            "model": tmp_path,
        },
        "export": {"run": "run", "out": tmp_path / "out"},
        "publish": {"run": "run", "to": tmp_path / "to"},
    }[app]
    module = importlib.import_module(f"torchrec_priors.apps.{app}")

    def stop(threads):
        raise _AskedFor(threads)

    monkeypatch.setattr(module, "use_threads", stop)
    with pytest.raises(_AskedFor, match="3"):
        getattr(module, app)(**options, threads=3)
    with pytest.raises(UserError, match="--threads must be in"):
        getattr(module, app)(**options, threads=0)


def test_where_nothing_is_computed_it_is_refused(small_data, tmp_path):
    with pytest.raises(UserError, match="--threads is not an option of content add"):
        content(Action.ADD, str(small_data), "text", vectors=tmp_path / "v.npy", threads=3)
    with pytest.raises(UserError, match="--threads is not an option of content join"):
        content(Action.JOIN, str(small_data), "both", of="genre", threads=3)
    with pytest.raises(UserError, match="--threads: it needs --run"):
        publish(tmp_path, version="one", threads=3)
