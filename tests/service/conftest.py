"""A small run with heads for groups of users, and services that answer with it."""

import pytest
import tiny
from service.over_http import Service
from serving.conftest import SETTINGS

from torchrec_priors import load_run
from torchrec_priors.config import parse

PRIORS = {"tree": ["temporal:2", "gender", "genre"], "composition": "additive"}
EVALUATION = {"calibrated": True, "fusion": "hierarchical"}


@pytest.fixture(scope="session")
def groups_run(trained):
    """The folder of the run."""
    return trained(
        parse(tiny.merged(SETTINGS, priors=PRIORS, evaluation=EVALUATION, loss={"gate": 1.0}))
    )


@pytest.fixture(scope="session")
def loaded(groups_run):
    """The run in memory."""
    with load_run(groups_run) as loaded:
        loaded.warm_up()
        yield loaded


@pytest.fixture
def make_service(loaded, tmp_path):
    """`make_service(**parts)`: a service with a store in a file of its own."""
    services = []

    def make(**parts):
        services.append(Service(loaded, tmp_path / f"{len(services)}.sqlite", **parts))
        return services[-1]

    yield make
    for one in services:
        one.close()


@pytest.fixture
def service(make_service):
    return make_service()
