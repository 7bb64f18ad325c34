"""A preparation that is killed at any moment goes on where it was, and ends with the same content."""

import random
import subprocess
import sys
import time

import pytest

from torchrec_priors.preparation.engine import on_duckdb
from torchrec_priors.preparation.engine.journal import Journal
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.manifest import verify
from torchrec_priors.synthetic.files import generate


class Killed(BaseException):
    """As when a process ends: nobody handles it."""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """(raw folder, content of what is prepared from it in one range of users)."""
    raw = tmp_path_factory.mktemp("killed") / "raw"
    generate(raw, 3_000, 0)
    return raw, prepare(Settings("marketplace", raw), raw.with_name("whole")).content_sha256


@pytest.fixture
def small_ranges(monkeypatch):
    """Ranges of users with about 500 interactions each, and files of a few users."""
    monkeypatch.setattr(on_duckdb, "_BYTES_A_ROW", 2 * 10**9 // 500)
    monkeypatch.setattr("torchrec_priors.preparation.build.sequence_files.USERS_A_FILE", 16)


@pytest.mark.slow
@pytest.mark.usefixtures("small_ranges")
def test_finished_stages_are_not_redone(log, tmp_path, monkeypatch):
    raw, _ = log
    expected = prepare(Settings("marketplace", raw), tmp_path / "whole").content_sha256
    out, finish, finished, left = tmp_path / "out", Journal.finish, [], [0]

    def limited(self, stage, *arguments, **named):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        finish(self, stage, *arguments, **named)
        finished.append(stage)

    monkeypatch.setattr(Journal, "finish", limited)
    draw = random.Random(0)
    made, kills = None, 0
    while made is None:
        left[0] = draw.randint(3, 9)
        try:
            made = prepare(Settings("marketplace", raw), out)
        except Killed:
            kills += 1
            assert not out.exists()
    assert kills > 4
    assert len(finished) == len(set(finished)), "a stage was done twice"
    assert sum(stage.startswith("table histories") for stage in finished) > 4
    assert made.content_sha256 == expected
    verify(out)


@pytest.mark.slow
def test_ranges_of_users_do_not_change_the_content(log, tmp_path, monkeypatch):
    raw, expected = log
    monkeypatch.setattr(on_duckdb, "_BYTES_A_ROW", 2 * 10**9 // 500)
    said = []
    made = prepare(Settings("marketplace", raw), tmp_path / "out", report=said.append)
    assert any("into 6 ranges" in line for line in said)
    assert made.content_sha256 == expected


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.campaign)])
def test_a_killed_process_leaves_nothing_that_is_taken_for_a_data_set(kills, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    generate(raw, 100_000, 0)
    expected = prepare(Settings("marketplace", raw), tmp_path / "whole").content_sha256
    app = [sys.executable, "-m", "torchrec_priors.apps.prepare", "--memory", "40MB"]
    command = [*app, "--dataset", "marketplace", "--raw", str(raw), "--out", str(out)]
    journal, draw = tmp_path / ".out.work" / "journal.jsonl", random.Random(kills)
    for _ in range(kills):
        reached = (journal.read_bytes().count(b"\n") if journal.exists() else 0) + draw.randint(
            1, 5
        )
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None and (
                not journal.exists() or journal.read_bytes().count(b"\n") < reached
            ):
                time.sleep(0.002)
            time.sleep(draw.random() * 0.05)
            process.kill()
        if out.exists():
            verify(out)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    verify(out)
    assert prepare(Settings("marketplace", raw), out).content_sha256 == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw", "whole"]
