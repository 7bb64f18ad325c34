"""The container file, as far as it can be checked without building it: what it copies, pins, runs as, and its shell."""

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from torchrec_priors.common.versions import TRIPLE

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def instructions():
    """[(instruction, its arguments)]: comments dropped, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def _of(instructions, name):
    return [arguments for instruction, arguments in instructions if instruction == name]


def test_everything_copied_is_there_and_is_not_ignored(instructions):
    ignored = [
        line
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line and line[0] != "#"
    ]
    copied = [
        source for arguments in _of(instructions, "COPY") for source in arguments.split()[:-1]
    ]
    assert {"pyproject.toml", "torchrec_priors", "datasets", "torchx_configs"} <= set(copied)
    for source in copied:
        assert (REPOSITORY / source).exists(), source
        assert not [pattern for pattern in ignored if fnmatch.fnmatch(source, pattern)], source
    assert os.readlink(REPOSITORY / ".torchxignore") == ".dockerignore"


def test_everything_that_the_wheel_contains_is_copied_before_it_is_built(instructions):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    build = next(
        number for number, (_, arguments) in enumerate(instructions) if 'install ".$' in arguments
    )
    copied = {
        source
        for name, arguments in instructions[:build]
        if name == "COPY"
        for source in arguments.split()[:-1]
    }
    assert {*wheel["packages"], *wheel["force-include"]} <= copied


def test_sources_change_no_layer_of_dependencies(instructions):
    copies = [
        number
        for number, (name, arguments) in enumerate(instructions)
        if arguments.startswith("torchrec_priors ")
    ]
    dependencies = [
        number
        for number, (_, arguments) in enumerate(instructions)
        if "requirements.txt" in arguments
    ]
    assert max(dependencies) < min(copies)


def test_it_runs_as_no_root_and_leaves_the_command_to_the_scheduler(instructions):
    names = [name for name, _ in instructions]
    assert _of(instructions, "USER") == ["$UID"]
    assert "UID=1000" in _of(instructions, "ARG")
    assert "RUN" not in names[names.index("USER") :]
    assert "ENTRYPOINT" not in names
    assert any(
        'python -c "import torchrec_priors"' in command for command in _of(instructions, "RUN")
    )


@pytest.mark.parametrize("device", ["cpu", "cuda", "tpu"])
def test_dependencies_are_those_of_the_project(device, instructions, tmp_path):
    """The very commands of the layer, with a pip that only notes what it is asked for."""
    (command,) = [command for command in _of(instructions, "RUN") if "requirements.txt" in command]
    (tmp_path / "pyproject.toml").write_bytes((REPOSITORY / "pyproject.toml").read_bytes())
    pip = tmp_path / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    pip.chmod(0o755)
    (pip.parent / "python").symlink_to(
        sys.executable
    )  # the image has it; a machine may have python3 alone
    environment = {"PATH": f"{pip.parent}:{os.environ['PATH']}", "DEVICE": device}
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    if device == "tpu":
        assert (done.returncode, done.stderr) == (2, "DEVICE=tpu is neither cpu nor cuda\n")
        assert not (tmp_path / "asked").exists()
        return
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "requirements.txt").read_text().splitlines() == PROJECT["dependencies"]
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[-1].endswith("-r requirements.txt")
    torch = next(one for one in PROJECT["dependencies"] if one.startswith("torch=="))
    assert [line.split()[-1] for line in asked[:-1]] == (
        [f"{torch}+cpu"] if device == "cpu" else []
    )
    assert ("./tools/fbgemm_gpu_on_cpu" in asked[-1]) == (device == "cpu")


def test_the_pinned_triple_stands_in_the_project_alone(instructions):
    for package, version in TRIPLE.items():
        assert any(one.startswith(f"{package}=={version}") for one in PROJECT["dependencies"]), (
            package
        )
        assert not any(
            re.search(rf"\b{package}\W*[0-9]", arguments) for _, arguments in instructions
        )


def test_every_command_is_a_shells(instructions):
    for command in _of(instructions, "RUN"):
        subprocess.run(["sh", "-n", "-c", command], check=True)
