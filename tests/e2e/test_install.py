"""From a wheel, in an environment of its own and outside the repository: no CUDA, and a first training.

It downloads a gigabyte from the package index, and PyTorch's CPU build from its page (or from where pip is configured
to look).
"""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.parser import Parser

import pytest
from command_line import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def _stand_in(tmp_path):
    """The wheel fbgemm-gpu that the installed module gives to pip."""
    code = f"import sys; sys.path[:0] = [{str(REPOSITORY / 'tools')!r}]\n"
    code += "import pathlib, torchrec_priors_cpu as cpu\n"
    code += f"print(cpu.write_stand_in(pathlib.Path({str(tmp_path)!r}), cpu._pinned('fbgemm-gpu')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_stand_in_has_the_version_and_requires_the_cpu_build(tmp_path):
    (pinned,) = [one for one in PROJECT["dependencies"] if one.startswith("fbgemm-gpu==")]
    version = pinned.partition("==")[2]
    with zipfile.ZipFile(_stand_in(tmp_path)) as archive:
        (about,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        headers = Parser().parsestr(archive.read(about).decode())
    assert (headers["Name"], headers["Version"]) == ("fbgemm-gpu", f"{version}+cpu")
    assert headers.get_all("Requires-Dist") == [f"fbgemm-gpu-cpu=={version}"]


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_two_commands_install_it_without_cuda_and_the_demos_training_runs(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"

    def run(*command):
        done = subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    run(*pip, "--no-build-isolation", "-w", tmp_path, REPOSITORY)
    (wheel,) = tmp_path.glob("torchrec_priors-*.whl")
    run(python, "-m", "pip", "install", "--no-deps", wheel)
    downloaded = run(python, "-m", "torchrec_priors_cpu")

    assert not [
        line for line in downloaded.splitlines() if "nvidia" in line or "cuda" in line.lower()
    ]
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    assert not [path.name for path in site.iterdir() if path.name.startswith(("nvidia", "triton"))]
    assert "+cpu" in run(
        python, "-c", "import torch; print(torch.__version__, torch.cuda.is_available())"
    )
    run(python, "-m", "pip", "check")

    app = tmp_path / "venv" / "bin" / "torchrec-priors"
    generate = ["--dataset", "marketplace", "--generate", "30000", "--option", "world=mixed"]
    run(app, "prepare", *generate, "--raw", "raw", "--out", "data")
    fast = ["training.steps=20", "training.evaluate_every=20"]
    said = run(
        app, "train", "--config", "marketplace-mixed", "--data", "data", "--run", "run", *fast
    )
    assert "best validation" in said
    assert "recall@10" in run(app, "evaluate", "--run", "run", "--split", "test")
    assert "because of" in run(app, "recommend", "--run", "run", "--user", "1")
