"""The files in `deploy/`: their commands have the options that they are given, and fit each other."""

from pathlib import Path

import pytest
import typer
import yaml

from torchrec_priors.apps import serve

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def objects():
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def _container(objects):
    (container,) = objects["Deployment", "recommendations"]["spec"]["template"]["spec"][
        "containers"
    ]
    return container


def _options(command):
    """The options that a command gives to `serve`."""
    assert command[:2] == ["torchrec-priors", "serve"]
    one = typer.Typer(add_completion=False)
    one.command()(serve.serve)
    known = {name for parameter in typer.main.get_command(one).params for name in parameter.opts}
    given = dict(option.split("=", 1) for option in command[2:])
    assert given.keys() <= known
    return given


def test_both_start_the_same_service(compose, objects):
    in_compose = _options(compose["services"]["serve-1"]["command"])
    assert compose["services"]["serve-2"]["command"] == compose["services"]["serve-1"]["command"]
    in_kubernetes = _options(_container(objects)["command"])
    assert in_compose.keys() == in_kubernetes.keys()
    for option in ("--state", "--drain-s", "--host", "--port", "--name"):
        assert in_compose[option] == in_kubernetes[option]
    assert in_compose["--state"].startswith("redis://valkey:6379/")


def test_replicas_end_after_their_requests(compose, objects):
    drain = int(_options(_container(objects)["command"])["--drain-s"])
    pod = objects["Deployment", "recommendations"]["spec"]["template"]["spec"]
    pause = int(_container(objects)["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > drain + pause
    assert int(compose["services"]["serve-1"]["stop_grace_period"].rstrip("s")) > drain


def test_what_is_named_is_there(compose, objects):
    container = _container(objects)
    pod = objects["Deployment", "recommendations"]["spec"]["template"]["spec"]
    options = _options(container["command"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert options["--token-file"] == f"{mounts['token']}/token"
    for option in ("--follow", "--data"):
        assert options[option].startswith(mounts["shared"])
    assert [port["name"] for port in container["ports"]] == ["http"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in ("/v2/health/ready", "/v2/health/live")
        assert container[probe]["httpGet"]["port"] == "http"

    labels = objects["Deployment", "recommendations"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert objects[kind, "recommendations"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service", "recommendations"]["spec"]["selector"] == labels

    given = _options(compose["services"]["serve-1"]["command"])
    targets = [volume.split(":")[-2] for volume in compose["services"]["serve-1"]["volumes"]]
    assert {given["--follow"], given["--data"]} == set(targets)
    assert given["--token-file"] == "/run/secrets/token"
    assert list(compose["secrets"]) == ["token"]


def test_no_event_is_lost_by_the_store(compose, objects):
    (valkey,) = objects["StatefulSet", "valkey"]["spec"]["template"]["spec"]["containers"]
    assert valkey["command"] == compose["services"]["valkey"]["command"]
    assert valkey["image"] == compose["services"]["valkey"]["image"]
    pairs = list(zip(valkey["command"][1::2], valkey["command"][2::2], strict=True))
    assert ("--appendonly", "yes") in pairs
    assert ("--appendfsync", "always") in pairs
    assert ("--maxmemory-policy", "noeviction") in pairs
