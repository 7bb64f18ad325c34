"""Command lines and settings that are wrong somewhere: each ends with 0, or with 2 and one line that says it.

They follow from a seed. `FUZZED_SEED` and `FUZZED_COMMANDS` try others, or more.
"""

import os
import resource
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import command_line
import pytest
from command_line import CONFIG, TINY, app
from forks import FORKS
from fuzzed_commands import APPS, Ground, fuzzed, options_of, shown

from torchrec_priors.config import load_config

SEED = int(os.environ.get("FUZZED_SEED", "20"))
COMMANDS = int(os.environ.get("FUZZED_COMMANDS", "500"))
_FEW = 20
_SECONDS = 120.0  # of a command
_MEMORY = 6 << 30  # bytes: a machine of others stays usable where a size is not refused
_LONGEST = 1500  # of the line

# What a terminal, a shell and a user's settings may say.
ENVIRONMENTS = (
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1", "TERM": "dumb"},
    {"COLUMNS": "abc", "LINES": "-1", "TERM": ""},
    {"COLUMNS": "1"},
    {"TERM": "no-such-terminal", "LC_ALL": "xx_YY.UTF-8"},
    {"TORCHREC_PRIORS_CACHE": "/dev/null", "TORCHREC_PRIORS_CACHE_SIZE": "much"},
    {"TORCHREC_PRIORS_CACHE_SIZE": "9" * 400 + "GB"},
    {"XDG_CACHE_HOME": "", "HOME": "/nowhere"},
    {"TORCHELASTIC_RESTART_COUNT": "x", "TORCHELASTIC_MAX_RESTARTS": "y", "LOCAL_RANK": "z"},
)


@dataclass(frozen=True)
class Ended:
    code: int | None  # None: still at work
    err: str

    def problem(self) -> str | None:
        lines = self.err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        if self.code == 0:
            return None
        if self.code is None:
            return "is still at work"
        if self.code != 2:
            return f"exit code {self.code}"
        if "Traceback" in self.err or len(errors) != 1 or lines[-1] != errors[0]:
            return "is not one line"
        if not errors[0].isprintable() or len(errors[0]) > _LONGEST:
            return "is a line that cannot be read"
        return None


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A run with an evaluation."""
    folder = tmp_path_factory.mktemp("fuzzed") / "run"
    shutil.copytree(trained(load_config(CONFIG, TINY)), folder)
    app("evaluate", "--run", folder, "--split", "test")
    return folder


@pytest.fixture
def ground(small_raw, small_data, run, tmp_path):
    """Copies, as commands may change what they are given."""
    for name, source in (("raw", small_raw), ("data", small_data), ("run", run)):
        shutil.copytree(source, tmp_path / name)
    (tmp_path / "ground").mkdir()
    return Ground(tmp_path / "ground", tmp_path / "raw", tmp_path / "data", tmp_path / "run")


def _limited(*arguments):
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    command_line._main(*arguments)


def _forked(name: str, arguments: list[str], folder: Path) -> Ended:
    with tempfile.TemporaryDirectory() as place:
        texts = [Path(place) / "out", Path(place) / "err"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = FORKS.Process(target=_limited, args=(name, arguments, folder, environment, texts))
        process.start()
        process.join(_SECONDS)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        return Ended(
            code,
            texts[1].read_bytes().decode("utf8", "backslashreplace") if texts[1].exists() else "",
        )


def _try(numbers, ground) -> list[str]:
    """What went wrong, one text a command."""
    wrong = []
    for number in numbers:
        name, arguments = fuzzed(number, SEED, ground)
        ended = _forked(name, arguments, ground.folder)
        problem = ended.problem()
        if problem is not None:
            wrong.append(f"{number} {problem}: {shown(name, arguments)}\n{ended.err[-1500:]}")
    return wrong


def test_every_option_of_every_app_is_known():
    """Otherwise nothing is fuzzed."""
    assert all(len(options_of(name)) >= 3 for name in APPS)
    assert {"--at-least", "--k", "--json"} <= {option.flag for option in options_of("recommend")}
    assert {option.takes for name in APPS for option in options_of(name)} == {
        "", "text", "number", "place", "amount", "time", "head",
    }  # fmt: skip


@pytest.mark.slow
def test_a_few(ground):
    assert _try(range(_FEW), ground) == []


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_many(ground):
    wrong = _try(range(COMMANDS), ground)
    assert wrong == [], f"{len(wrong)} of {COMMANDS}:\n" + "\n".join(wrong)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_in_processes_of_their_own_under_odd_environments(ground):
    wrong = []
    for number in range(30):
        name, arguments = fuzzed(number, SEED + 1, ground)
        if number < 2 * len(ENVIRONMENTS) and name in ("recommend", "report", "prepare", "prior"):
            arguments = ground.working(name)
        done = subprocess.run(
            ["torchrec-priors", name, *arguments],
            cwd=ground.folder,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PATH": f"{command_line.BIN}:{os.environ['PATH']}",
                **ENVIRONMENTS[number % len(ENVIRONMENTS)],
            },
            capture_output=True,
            timeout=280,
            errors="backslashreplace",
        )
        problem = Ended(done.returncode, done.stderr).problem()
        if problem is not None:
            wrong.append(f"{number} {problem}: {shown(name, arguments)}\n{done.stderr[-1500:]}")
    assert wrong == []
