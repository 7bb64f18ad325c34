"""Every app with a full disk, without permission, and killed: see `campaign`. `make test-campaigns` runs the long form."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import campaign
import pytest
from campaign import BUDGET, SCENARIOS, SMALL, named
from command_line import app
from rooms import in_a_room
from small_movielens import write_movielens
from stores import served

pytestmark = pytest.mark.timeout(900)

MOMENTS = 10
_PROCESSES = "experiment"  # starts interpreters of its own, which takes seconds each
_EXPERIMENT = """
config = '{config}'
seeds = [0]
[cells.one]
priors.tree = []
[budget]
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """What the scenarios read, tiny: raw files, more of them, data, an evaluated run, an experiment's file."""
    folder = tmp_path_factory.mktemp("campaign")
    write_movielens(folder / "raw", users=30, items=60, longest=40)
    write_movielens(folder / "more", users=30, items=60, longest=40, seed=1)
    (folder / "moods.csv").write_text("item_id,label\n1,calm\n2,loud\n")
    budget = "".join(f"{change}\n" for change in BUDGET)
    (folder / "one.toml").write_text(_EXPERIMENT.format(config=SMALL) + budget)
    app("prepare", "--dataset", "movielens", "--raw", folder / "raw", "--out", folder / "data")
    app("train", "--config", SMALL, "--data", folder / "data", "--run", folder / "run", *BUDGET)
    app("evaluate", "--run", folder / "run", "--split", "test")
    return folder


@contextmanager
def _store(base: Path) -> Iterator[None]:
    """The data by HTTP, for scenarios that read it from a store."""
    with served(base / "data") as (address, _):
        (base / "address").write_text(address)
        yield


@pytest.mark.slow
def test_a_full_disk_in_short(base):
    assert in_a_room(campaign.fill_up, named("evaluate"), base, 2, 0)


@pytest.mark.slow
def test_no_permission_and_a_kill_in_short(base):
    in_a_room(campaign.forbid, named("prior item"), base, 1, 0)
    in_a_room(campaign.kill, named("prior item"), base, 1, 0)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_full_disk(scenario, base):
    with _store(base):
        moments = 3 if scenario.name == _PROCESSES else MOMENTS
        said = in_a_room(campaign.fill_up, scenario, base, moments, 1, timeout=3600)
    assert said, "the disk was never full"


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_no_permission(scenario, base):
    with _store(base):
        in_a_room(
            campaign.forbid,
            scenario,
            base,
            1 if scenario.name == _PROCESSES else 4,
            1,
            timeout=3600,
        )


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_kills(scenario, base):
    with _store(base):
        times = 3 if scenario.name == _PROCESSES else MOMENTS
        met = in_a_room(campaign.kill, scenario, base, times, 1, timeout=3600)
    assert met, "every kill came too late"
