"""The layers of imports that `make check` holds: a planted import from below to above fails."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LINT = Path(sys.executable).with_name("lint-imports")

pytestmark = pytest.mark.skipif(not LINT.exists(), reason="import-linter is not installed")


@pytest.fixture
def copy(tmp_path):
    """The package and its contracts, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "torchrec_priors", tmp_path / "torchrec_priors", ignore=ignored)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def _lint(folder):
    """Exit status and output of the check, of the package in `folder`."""
    done = subprocess.run(
        [str(LINT), "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("heads/score.py", "import torchrec_priors.training.step", "Data goes one way BROKEN"),
        ("prepared/labels.py", "import torchrec_priors.data.windows", "Data goes one way BROKEN"),
        ("loss.py", "import pyarrow", "nor the libraries that read data BROKEN"),
        ("settings/model.py", "import torch", "need no torch BROKEN"),
    ],
)
def test_a_planted_import_is_found(copy, module, line, broken):
    file = copy / "torchrec_priors" / module
    text = file.read_text(encoding="utf8")
    file.write_text(text + f"\n{line}\n", encoding="utf8")

    status, output = _lint(copy)

    assert status == 1
    assert broken in output


def test_the_layers_hold(copy):
    status, output = _lint(copy)

    assert status == 0, output
    assert "0 broken" in output
