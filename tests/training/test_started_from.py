"""A run goes on wherever the run that it started from is now, and in one training at a time."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from torchrec_priors.apps.train import train
from torchrec_priors.errors import UserError
from torchrec_priors.ranks.process import join
from torchrec_priors.training.run.claim import claimed
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.started_from import source_of

CONFIG = tiny.config()


@pytest.fixture(scope="module")
def made(small_data, trained, tmp_path_factory):
    """A folder with a configuration, a run `a`, and a run `b` that started from it."""
    folder = tmp_path_factory.mktemp("started")
    (folder / "small.toml").write_text(CONFIG.to_toml())
    shutil.copytree(trained(CONFIG), folder / "a")
    train(str(small_data), folder / "b", folder / "small.toml", folder / "a")
    train(str(small_data), folder / "other", folder / "small.toml", overrides=["seed=1"])
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "made"))
    data = (Path("b") / "data.json").read_text()
    assert str(made / "a") in data
    return tmp_path / "made"


def test_a_run_goes_on_though_the_one_it_started_from_has_moved_or_gone(made, folder, small_data):
    moved = Path("a").rename("a2")
    shutil.move(made / "a", made / "kept")
    try:
        train(str(small_data), Path("b"), Path("small.toml"), moved)
        train(str(small_data), Path("b"), Path("small.toml"), made / "a")
        train(str(small_data), Path("b"), Path("small.toml"))
    finally:
        shutil.move(made / "kept", made / "a")
    assert RunFolder(Path("b")).origin().init_from == str(made / "a")


def test_another_run_is_not_taken_for_it(folder):
    with pytest.raises(UserError, match="was started from another run, which was in"):
        source_of(RunFolder(Path("b")), RunFolder(Path("other")))
    with pytest.raises(UserError, match="--init-from: there is no folder 'nowhere'"):
        source_of(RunFolder(Path("b")), RunFolder(Path("nowhere")))
    with pytest.raises(UserError, match="'a' was not started from another run"):
        source_of(RunFolder(Path("a")), RunFolder(Path("other")))


def test_before_the_first_checkpoint_it_is_needed(made, folder):
    shutil.rmtree("b/checkpoints")
    assert source_of(RunFolder(Path("b")), None).path == made / "a"
    assert source_of(RunFolder(Path("b")), RunFolder(Path("a"))).path == Path("a")
    shutil.move(made / "a", made / "kept")
    try:
        with pytest.raises(
            UserError,
            match=r"'b' has no checkpoint yet, and the run that it starts from is not in '",
        ):
            source_of(RunFolder(Path("b")), None)
    finally:
        shutil.move(made / "kept", made / "a")


_HOLD = """
import sys
from pathlib import Path
from torchrec_priors.training.run.claim import claimed
from torchrec_priors.ranks.process import join
with join() as ranks, claimed(Path(sys.argv[1]), ranks):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_second_training_in_a_folder_is_stopped_until_the_first_is_gone(folder, small_data):
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, "b"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="--run: another training uses 'b': wait until it ends"):
            train(str(small_data), Path("b"), Path("small.toml"))
        RunFolder(Path("b")).open()  # who only reads is not stopped
    finally:
        holder.kill()  # as a kill ends it
        holder.wait()
    train(str(small_data), Path("b"), Path("small.toml"))


def test_ranks_of_a_training_claim_a_folder_once(tmp_path):
    with join() as ranks:
        with claimed(tmp_path / "run", ranks):
            pass
        with claimed(tmp_path / "run", ranks):
            assert (tmp_path / "run" / ".lock").exists()
