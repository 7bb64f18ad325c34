"""Where the runs of an experiment are, is logged every so often."""

import logging
import time

from torchrec_priors.experiments.heartbeat import Running, heartbeat


def _said(caplog, runs):
    caplog.clear()
    with caplog.at_level(logging.INFO, "torchrec_priors"), heartbeat(lambda: runs, every=0.02):
        deadline = time.monotonic() + 10
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
    return caplog.messages[0] if caplog.messages else None


def test_steps_of_running_runs(caplog, tmp_path):
    first, second, third = (tmp_path / name for name in "abc")
    first.write_text('{"step": 10}\n{"step": 1200, "loss": 1.0}\n{"step": 12')
    second.write_text("")
    third.write_text('{"step": 2000}\n')
    runs = [Running(file.name, file, 2000) for file in (first, second, third)]
    assert _said(caplog, runs) == (
        "running: a at step 1,200 of 2,000; b is starting; c is evaluated"
    )


def test_nothing_is_said_of_nothing(caplog):
    with caplog.at_level(logging.INFO, "torchrec_priors"), heartbeat(list, every=0.01):
        time.sleep(0.05)
    assert not caplog.messages
