"""The `.torchxconfig` of each scheduler: TorchX skips what it does not know, so every line is checked here."""

import configparser
import inspect
import re
from pathlib import Path

import pytest
from schedulers import lacks, nodes_asked_for, retries
from torchx.cli.argparse_util import torchxconfig
from torchx.cli.main import main
from torchx.runner import Runner, get_runner
from torchx.runner.config import load
from torchx.specs.builders import materialize_appdef
from torchx.specs.finder import get_component

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = sorted((REPOSITORY / "torchx_configs").glob("*.torchxconfig"))
SCHEDULERS = ["local_cwd", "local_docker", "slurm", "kubernetes", "aws_batch", "ray"]
GIVEN = {
    "prepare": ["--dataset", "movielens", "--raw", "raw", "--out", "data"],
    "train": ["--config", "c.toml", "--data", "data", "--run", "run"],
    "evaluate": ["--run", "run", "--split", "test"],
    "recommend": ["--run", "run", "--user", "1"],
}


def _everything(file):
    """The file with what is commented out taken in, as configparser reads it."""
    config = configparser.ConfigParser()
    config.optionxform = str
    config.read_string(re.sub(r"^# ([\w-]+ = )", r"\1", file.read_text(), flags=re.MULTILINE))
    return config


def _scheduler(config):
    return config["cli:run"]["scheduler"]


def test_there_is_a_file_for_each_scheduler():
    assert sorted(_scheduler(_everything(file)) for file in FILES) == sorted(SCHEDULERS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_all_options_of_the_scheduler_and_no_others_stand_there(file, tmp_path):
    config = _everything(file)
    scheduler = _scheduler(config)
    if reason := lacks(scheduler):
        pytest.skip(reason)
    with get_runner() as runner:
        options = runner.scheduler_run_opts(scheduler)
    assert set(config[scheduler]) == {name for name, _ in options}
    with (tmp_path / "all").open("w+") as everything:
        config.write(everything)
        everything.seek(0)
        read = {}
        load(scheduler, everything, read)
    options.resolve(read)  # raises for a value of the wrong type
    with file.open() as as_shipped:
        load(scheduler, as_shipped, shipped := {})
    options.resolve(shipped)  # raises where one that is required is missing
    assert set(config.sections()) == {"cli:run", scheduler, *_components(config)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_alone_says_where_and_on_what_a_component_runs(file, monkeypatch, capsys):
    config = _everything(file)
    scheduler = _scheduler(config)
    if reason := lacks(scheduler):
        pytest.skip(reason)
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("TORCHXCONFIG", str(file.relative_to(REPOSITORY)))
    asked = []
    dryrun = Runner.dryrun_component
    monkeypatch.setattr(
        Runner, "dryrun_component", lambda *a, **kw: asked.append(dryrun(*a, **kw)) or asked[-1]
    )
    for app, given in GIVEN.items():
        monkeypatch.setattr(
            torchxconfig, "_subcmd_configs", {}
        )  # which TorchX reads once a process
        component = f"components/{app}.py:{app}"
        main(["run", "--dryrun", component, *given])
        assert "=== SCHEDULER REQUEST ===" in capsys.readouterr().out
        assert asked[-1]._scheduler == scheduler
        own = (
            dict(config.items(f"component:{component}"))
            if f"component:{component}" in config
            else {}
        )
        known = inspect.signature(get_component(component).fn).parameters
        assert set(own) <= set(known)
        words = [
            word
            for name, value in own.items()
            for word in (f"-{name}" if name == "j" else f"--{name}", value)
        ]
        (wanted,) = materialize_appdef(get_component(component).fn, [*words, *given]).roles
        for node in nodes_asked_for(scheduler, asked[-1].request):
            assert f"torchrec_priors.apps.{app}" in node.command
            assert node.cpu in (wanted.resource.cpu, None)
            assert node.gpu in (wanted.resource.gpu, None)
            assert node.memory_mb in (wanted.resource.memMB, None)
            assert node.image in (wanted.image, None)
            mounts = [
                (getattr(one, "src_path", None) or one.src, one.dst_path) for one in wanted.mounts
            ]
            assert node.mounts in (mounts, None)
            assert node.retries in (retries(scheduler, wanted.max_retries), None)


def _components(config):
    return {name for name in config.sections() if name.startswith("component:components/")}
