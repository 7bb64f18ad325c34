"""Stages are shown as lines where standard error is not a terminal: not at once, then every few seconds."""

import io
import logging
import re
import sys
import time

import pytest

from torchrec_priors.common.progress import shown_messages, stages, with_progress


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_command_that_takes_less_time_prints_nothing(capsys):
    with stages(every=30) as report:
        report("reading")
    assert capsys.readouterr() == ("", "")


def test_a_line_is_printed_every_so_often_with_the_stage_at_that_time(capsys):
    start = time.monotonic()
    with stages(every=0.2) as report:
        report("reading")
        for _ in range(50):
            time.sleep(0.01)
        report("joining")
        time.sleep(0.7)
    seconds = time.monotonic() - start
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert 3 <= len(lines) <= seconds / 0.2
    assert all(re.fullmatch(r"(reading|joining) \[00:\d\d\]", line) for line in lines)
    assert lines[0].startswith("reading")
    assert lines[-1].startswith("joining")


def test_many_stages_are_not_many_lines(capsys):
    with stages(every=0.3) as report:
        for number in range(1000):
            report(f"stage {number}")
        time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 2
    assert lines[0].startswith("stage 999 ")


def test_lines_end_with_the_command_also_after_an_error(capsys):
    def fails():
        with stages(every=0.05):
            time.sleep(0.2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    said = capsys.readouterr().err
    assert said.startswith("starting [")
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_one_line_that_changes(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with stages(every=0.05) as report:
        report("reading")
        time.sleep(0.2)
    assert "reading [00:00]" in terminal.getvalue()
    assert "\n" not in terminal.getvalue()


def test_messages_are_shown_within_a_block_only(capsys):
    log = logging.getLogger("torchrec_priors.some.module")
    package = logging.getLogger("torchrec_priors")
    before = (package.level, package.propagate, list(package.handlers))
    package.setLevel(logging.WARNING)
    try:
        with shown_messages(True):
            log.info("[1/2] one: done")
        with shown_messages(False):
            log.info("nobody sees this")
        assert (package.propagate, list(package.handlers)) == before[1:]
    finally:
        package.setLevel(before[0])
    assert capsys.readouterr().err == "[1/2] one: done\n"


def test_taken_values_are_counted_in_lines(capsys, monkeypatch):
    monkeypatch.setattr("torchrec_priors.common.progress.EVERY", 0.0)
    taken = list(with_progress("abc", 3, "batch", leads=True, doing="evaluation"))
    assert taken == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"evaluation: batch {number} of 3, 00:00 left" for number in (1, 2)]

    assert list(with_progress("abc", 3, "batch", leads=False)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
