"""A wrong `--run`, `--data` or `priors.tree`, and help, need no PyTorch: they take less than a second instead of many."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from torchrec_priors.apps.__main__ import apps
from torchrec_priors.config import parse

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
NOWHERE = "nowhere"
NO_PRIOR = "genra"
# Every app that reads a run, and what else it needs.
OF_RUNS = {
    "evaluate": ["--split", "test"],
    "export": ["--out", "out"],
    "publish": ["--to", "to"],
    "push": ["--to", "to"],
    "recommend": ["--user", "1"],
    "serve": [],
}
OF_DATA = [
    ["content", "encode", "--name", "text", "--model", ".", "--data", NOWHERE],
    ["content", "join", "--name", "both", "--of", "text", "--data", NOWHERE],
    ["describe", NOWHERE],
    ["experiment", "ml-100k", "--data", NOWHERE],
    ["plan", "--config", "small", "--data", NOWHERE],
    ["prior", "list", "--data", NOWHERE],
    ["train", "--run", "run", "--data", NOWHERE],
]
# With this entry, `import torch` is an error.
_WITHOUT_TORCH = """
import contextlib, importlib, io, json, sys
sys.modules["torch"] = None
from torchrec_priors.apps import command

ended = []
for app, *arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            function = getattr(importlib.import_module(f"torchrec_priors.apps.{app}"), app)
            command.run(function, arguments)
        except SystemExit as error:
            ended.append([error.code, said.getvalue()])
print(json.dumps(ended))
"""


def _without_torch(folder: Path, commands: list[list[str]]) -> list[list]:
    """For each command its exit code and what it printed, all in one process without PyTorch."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ended(trained, small_data, tmp_path_factory):
    """What each command printed."""
    folder = tmp_path_factory.mktemp("early")
    run = str(trained(parse(tiny.settings())))
    commands = [[app, "--help"] for app in apps()]
    for app, more in OF_RUNS.items():
        commands.append([app, "--run", NOWHERE, *more])
        commands.append([app, "--run", str(small_data), *more])
        commands.append([app, "--run", run, "--data", NOWHERE, *more])
    commands.append(["bench", "--shape", "serve", "--run", NOWHERE])
    commands += OF_DATA
    commands.append(["train", "--data", str(small_data), "--run", run, "model.dim=8"])
    not_evaluated = folder.with_name("not-evaluated")
    not_evaluated.mkdir()
    for file in ("config.toml", "data.json"):
        shutil.copy(Path(run) / file, not_evaluated)
    commands.append(["evaluate", "--run", str(not_evaluated), "--split", "test"])
    tree = f'priors.tree=["{NO_PRIOR}"]'
    commands.append(["train", "--data", str(small_data), "--run", "run", tree])
    results = _without_torch(folder, commands)
    assert not list(folder.iterdir())
    return {tuple(one): result for one, result in zip(commands, results, strict=True)}


def test_help_needs_no_torch(ended):
    for app in apps():
        code, said = ended[app, "--help"]
        assert code == 0, said
        assert "Usage:" in said


def test_a_wrong_run_or_data_set_is_one_line_before_torch_is_imported(ended):
    wrong = {command: result for command, result in ended.items() if "--help" not in command}
    assert len(wrong) == 3 * len(OF_RUNS) + len(OF_DATA) + 4
    for command, (code, said) in wrong.items():
        assert code == 2, (command, said)
        assert said.startswith("error: "), (command, said)
        assert said.count("\n") == 1, (command, said)
        if NOWHERE in command:
            assert NOWHERE in said, command
        if "not-evaluated" in " ".join(command):
            assert "has no best checkpoint yet: train until its first evaluation" in said
        if NO_PRIOR in command[-1]:
            assert f"there is no prior '{NO_PRIOR}': did you mean 'genre'?" in said
