"""A TorchX component takes what its app takes, with the same defaults, and passes it on."""

import enum
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

import pytest
from schedulers import QUEUE, lacks, nodes_asked_for, retries
from torchx.runner import get_runner
from torchx.specs.builders import materialize_appdef
from torchx.specs.file_linter import get_fn_docstring
from torchx.specs.finder import get_component

from torchrec_priors.apps.__main__ import apps

REPOSITORY = Path(__file__).resolve().parents[1]
RESOURCES = {
    "j",
    "image",
    "h",
    "cpu",
    "gpu",
    "memMB",
    "max_retries",
    "max_restarts",
    "env",
    "mounts",
}
POSITIONAL = {
    "content": "action",
    "describe": "data",
    "prior": "kind",
    "train": "overrides",
    "evaluate": "overrides",
    "experiment": "file",
    "plan": "overrides",
    "report": "more",
}


def _parameters(app):
    """Name on the command line -> parameter of the app's function."""
    function = getattr(importlib.import_module(f"torchrec_priors.apps.{app}"), app)
    names = {"as_json": "json"}
    return {
        names.get(name, name): parameter
        for name, parameter in inspect.signature(function).parameters.items()
    }


def test_components_are_what_the_apps_signatures_say():
    path = REPOSITORY / "tools/components.py"
    spec = importlib.util.spec_from_file_location("components_tool", path)
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool  # in which dataclasses look up their annotations
    try:
        spec.loader.exec_module(tool)
        texts = {app: tool.text_of(app) for app in apps()}
    finally:
        del sys.modules[spec.name]
    stale = [
        app
        for app, text in texts.items()
        if (REPOSITORY / f"components/{app}.py").read_text(encoding="utf8") != text
    ]
    assert not stale, "run `make components`"
    written = {file.stem for file in (REPOSITORY / "components").glob("*.py")}
    assert written == set(texts), "a component has no app"


@pytest.mark.parametrize("app", apps())
def test_the_help_of_a_component_describes_every_argument(app, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("COLUMNS", "10000")  # argparse breaks narrow lines at hyphens, too
    component = get_component(f"components/{app}.py:{app}").fn
    with pytest.raises(SystemExit):
        materialize_appdef(component, ["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    _, descriptions = get_fn_docstring(component)
    for name, description in descriptions.items():
        assert description.strip(), name
        assert " ".join(description.replace("%%", "%").split()) in printed


@pytest.mark.parametrize("app", apps())
def test_options(app, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    component = get_component(f"components/{app}.py:{app}").fn
    taken = {
        name: parameter
        for name, parameter in inspect.signature(component).parameters.items()
        if name not in RESOURCES and parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    }
    expected = _parameters(app)
    expected.pop(POSITIONAL.get(app, ""), None)
    assert list(taken) == list(expected)
    for name, parameter in taken.items():
        default = expected[name].default
        assert parameter.default == (
            default.value if isinstance(default, enum.Enum) else default
        ), name


def test_all_options_of_recommend_reach_the_app(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    component = get_component("components/recommend.py:recommend").fn
    others = ("k", "json", "trust", "strict")
    names = [name for name in _parameters("recommend") if name not in others]
    given = [word for name in names for word in (f"--{name}", f"its-{name}")]
    given += ["--k", "3", "--json", "True", "--trust", "True", "--strict", "True", "-j", "1x2"]
    command = " ".join(materialize_appdef(component, given).roles[0].args)
    for option in [
        *(f"--{name.replace('_', '-')} its-{name}" for name in names),
        "--k 3",
        "--json",
        "--trust",
        "--strict",
    ]:
        assert option in command


def test_lists_reach_the_app_one_by_one(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    component = get_component("components/recommend.py:recommend").fn
    given = ["--run", "r", "--only", "long-term / Comedy,Drama", "--boost", "Drama=2,Comedy=0.5"]
    command = " ".join(materialize_appdef(component, given).roles[0].args)
    assert "--only 'long-term / Comedy' --only Drama --boost Drama=2 --boost Comedy=0.5" in command


# The variable that says where the first of several nodes is, on that node and on the others.
FIRST_NODE = {
    "local_cwd": "TORCHX_RANK0_HOST",
    "slurm": "SLURM_JOB_NODELIST_HET_GROUP_0",
    "lsf": "TORCHX_RANK0_HOST",
    "aws_batch": "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS",
    "local_docker": "TORCHX_RANK0_HOST",
    "kubernetes": "VC_{ROLE}_0_HOSTS",
    "ray": "TORCHX_RANK0_HOST",
}


@pytest.fixture(scope="module")
def runner():
    with get_runner() as runner:
        yield runner


@pytest.mark.parametrize("scheduler", FIRST_NODE)
@pytest.mark.parametrize("app", apps())
def test_what_a_scheduler_is_asked_for(app, scheduler, runner, monkeypatch):
    if reason := lacks(scheduler):
        pytest.skip(reason)
    monkeypatch.chdir(REPOSITORY)
    parameters = inspect.signature(get_component(f"components/{app}.py:{app}").fn).parameters
    needed = {name: str(len(name)) for name, one in parameters.items() if _is_required(one)}
    image = (
        "/tmp" if scheduler == "ray" else "registry/image:1"
    )  # Ray's is the folder that it copies
    asked = {
        "j": "2x4",
        "cpu": "16",
        "gpu": "4",
        "memMB": "64000",
        "max_retries": "3",
        "image": image,
    }
    asked |= {"env": "NCCL_SOCKET_IFNAME=ib0,A=b", "mounts": "type=bind,src=/data,dst=/shared"}
    asked = {name: value for name, value in asked.items() if name in parameters}
    given = [
        word
        for name, value in (asked | needed).items()
        for word in (f"-{name}" if name == "j" else f"--{name}", value)
    ]
    positional = [
        name for name, one in parameters.items() if one.kind is inspect.Parameter.VAR_POSITIONAL
    ]

    settings = {QUEUE[scheduler]: "training"} if scheduler in QUEUE else {}
    dry = runner.dryrun_component(
        f"components/{app}.py:{app}", [*given, *positional], scheduler, settings
    )
    nodes = nodes_asked_for(scheduler, dry.request)

    ranks, wanted = ("4", 2) if "j" in parameters else ("1", 1)
    assert len(nodes) == wanted
    for number, node in enumerate(nodes):
        launcher, ours = (
            node.command[: node.command.index("--")],
            node.command[node.command.index("--") + 1 :],
        )
        assert launcher[0] == "torchrun"
        assert launcher[launcher.index("--nnodes") + 1] == str(wanted)
        assert launcher[launcher.index("--nproc_per_node") + 1] == ranks
        assert launcher[-2:] == ["-m", f"torchrec_priors.apps.{app}"]
        ours = " ".join(ours)
        for name, value in needed.items():
            assert f"--{name.replace('_', '-')} {value}" in ours
        assert ours.endswith(" ".join(positional))
        if wanted == 1:
            assert "localhost:0" in launcher
        elif scheduler == "kubernetes" and number == 0:
            assert node.env[node.host] == "localhost"
        else:
            assert node.host == FIRST_NODE[scheduler].format(ROLE=app.upper())
        assert node.env["OMP_NUM_THREADS"] == str(16 // int(ranks))
        assert node.env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
        assert ("PET_MAX_RESTARTS" in node.env) == (app == "train")
        assert (node.env["NCCL_SOCKET_IFNAME"], node.env["A"]) == ("ib0", "b")
        assert node.cpu in (16, None)
        assert node.gpu in (4 if "gpu" in parameters else 0, None)
        assert node.memory_mb in (64000, None)
        assert node.image in (image, None)
        assert node.mounts in ([("/data", "/shared")], None)
        assert node.retries in (retries(scheduler, 3), None)
        assert node.queue == next(iter(settings.values()), None)


def _is_required(parameter):
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL


def test_torchrun_starts_training_again_within_a_budget(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    train = get_component("components/train.py:train").fn
    given = ["--config", "c", "--data", "d", "--run", "r"]
    budgets = [
        materialize_appdef(train, [*given, *more]).roles[0]
        for more in ([], ["--max_restarts", "20"])
    ]
    assert [role.env["PET_MAX_RESTARTS"] for role in budgets] == ["3", "20"]
    assert [role.max_retries for role in budgets] == [0, 0]
    ddp = get_component("dist.ddp").fn
    role = materialize_appdef(ddp, ["-m", "torchrec_priors.apps.train", "--", "--run", "r"]).roles[
        0
    ]
    assert role.env["PET_MAX_RESTARTS"] == "3"
    role = materialize_appdef(
        ddp, ["-m", "torchrec_priors.apps.evaluate", "--", "--run", "r"]
    ).roles[0]
    assert "PET_MAX_RESTARTS" not in role.env
