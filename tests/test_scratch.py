"""Folders that a kill left are removed by the next command, and never those in use."""

import os
import signal
import subprocess
import sys

import pytest

from torchrec_priors.common.scratch import scratch_folder

_USE = """
import sys
from pathlib import Path
from torchrec_priors.common.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), "edges") as folder:
    (folder / "spill").write_text("much")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def user(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _USE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.wait()


def test_it_is_gone_at_the_end_and_after_an_error(tmp_path):
    with scratch_folder(tmp_path, "edges") as folder:
        assert folder.parent == tmp_path
    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path, "edges"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_but_not_what_is_in_use(tmp_path, user):
    used = user.stdout.readline().strip()
    with scratch_folder(tmp_path, "edges") as own:
        assert sorted(map(str, tmp_path.iterdir())) == sorted([used, str(own)])
    user.send_signal(signal.SIGKILL)
    user.wait()
    assert [str(path) for path in tmp_path.iterdir()] == [used]
    with scratch_folder(tmp_path, "other"):
        assert os.path.exists(used)
    with scratch_folder(tmp_path, "edges") as own:
        assert list(tmp_path.iterdir()) == [own]


def test_one_of_an_earlier_version_goes_when_it_is_old(tmp_path):
    left, new = tmp_path / ".edges.old", tmp_path / ".edges.new"
    left.mkdir()
    new.mkdir()
    os.utime(left, (0, 0))
    with scratch_folder(tmp_path, "edges"):
        assert not left.exists()
        assert new.exists()
