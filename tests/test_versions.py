"""The torch, torchrec, fbgemm triple is checked at import; a misfit is one line that says how to mend it."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from torchrec_priors.common import versions

REPOSITORY = Path(__file__).resolve().parents[1]
FITTING = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"}


@pytest.fixture
def install(monkeypatch):
    """install(**versions): pretends that these are the installed versions; None for an absent package."""

    def pretend(installed: dict[str, str | None]) -> None:
        def version(package: str) -> str:
            if installed[package] is None:
                raise PackageNotFoundError(package)
            return installed[package]

        monkeypatch.setattr(versions, "version", version)

    return pretend


@pytest.mark.parametrize(
    "changes", [{}, {"torch": "2.13.1+cu128"}, {"torchrec": "1.8.1", "fbgemm-gpu": "1.8.0+cpu"}]
)
def test_the_pinned_triple_and_its_patches_and_builds_fit(changes, install):
    install(FITTING | changes)
    assert versions.mismatch() is None
    versions.check()


@pytest.mark.parametrize(
    ("package", "number"),
    [
        ("torch", "2.12.0"),
        ("torch", "2.130.0"),
        ("torchrec", "1.7.0"),
        ("fbgemm-gpu", "1.80.0"),
        ("fbgemm-gpu", "2026.1.1"),
        ("torchrec", None),
    ],
)
def test_any_other_triple_is_named_in_one_line_with_the_remedy(package, number, install):
    install(FITTING | {package: number})
    problem = versions.mismatch()
    assert problem is not None
    assert "\n" not in problem
    assert f"{package} {number or 'absent'}" in problem
    assert "torch 2.13.*, torchrec 1.8.*, fbgemm-gpu 1.8.*" in problem
    assert "make install" in problem


def test_a_misfit_raises_at_import(install, monkeypatch):
    install(FITTING | {"torch": "2.12.0"})
    monkeypatch.setattr(
        sys, "excepthook", sys.excepthook
    )  # check() sets it: put it back afterwards
    with pytest.raises(versions.VersionMismatchError, match=r"found torch 2\.12\.0"):
        versions.check()


@pytest.mark.parametrize(
    "command",
    [
        ["-c", "import torchrec_priors"],
        ["-c", "from torchrec_priors.config import load_config"],
        ["-m", "torchrec_priors.apps.prepare", "--help"],
        ["-m", "torchrec_priors.apps", "--help"],
    ],
    ids=" ".join,
)
def test_an_uncaught_misfit_prints_exactly_one_line(command, tmp_path):
    """Another torch's metadata stands first on the path."""
    metadata = tmp_path / "torch-2.12.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.12.0\n")
    path = f"{tmp_path}:{REPOSITORY}"
    done = subprocess.run(
        [sys.executable, *command],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("torchrec_priors needs torch 2.13.*")
    assert "found torch 2.12.0, torchrec 1.8." in done.stderr
    assert done.stderr.count("\n") == 1


def test_other_errors_keep_their_traceback_after_a_misfit(tmp_path):
    """A program that goes on without the package loses nothing."""
    metadata = tmp_path / "torch-2.12.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.12.0\n")
    script = "try:\n    import torchrec_priors\nexcept ImportError:\n    pass\n1 / 0\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr.startswith("Traceback")
    assert "ZeroDivisionError" in done.stderr
