"""A TorchX component takes what its app takes, with the same defaults, and passes it on."""

import enum
import importlib
import inspect
from pathlib import Path

import pytest
from torchx.specs.builders import materialize_appdef
from torchx.specs.finder import get_component

from torchrec_priors.apps.__main__ import apps

REPOSITORY = Path(__file__).resolve().parents[1]
RESOURCES = {"j", "image", "h", "cpu", "gpu", "memMB", "max_retries"}
POSITIONAL = {"prior": "kind", "train": "overrides", "evaluate": "overrides", "experiment": "file"}


def _parameters(app):
    """Name on the command line -> parameter of the app's function."""
    function = getattr(importlib.import_module(f"torchrec_priors.apps.{app}"), app)
    names = {"as_json": "json"}
    return {names.get(name, name): parameter for name, parameter in inspect.signature(function).parameters.items()}


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
        assert parameter.default == (default.value if isinstance(default, enum.Enum) else default), name


def test_all_options_of_recommend_reach_the_app(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    component = get_component("components/recommend.py:recommend").fn
    options = [f"--{name} its-{name}" for name in _parameters("recommend") if name not in ("k", "json")]
    options += ["--k 3", "--json"]
    given = " ".join(options).replace("--json", "--json True").split()
    command = " ".join(materialize_appdef(component, [*given, "-j", "1x2"]).roles[0].args)
    for option in options:
        assert option in command
