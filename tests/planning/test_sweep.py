"""A sweep is its plans: memory falls with ranks, grows with items."""

import itertools
import json

import pytest
from questions import request_of

from torchrec_priors.errors import UserError
from torchrec_priors.planning.fits import check_any_fits
from torchrec_priors.planning.planner import plan
from torchrec_priors.planning.show import show_sweep, sweep_as_json
from torchrec_priors.planning.sweep import sweep

ITEMS, RANKS = [1_260_000, 1_000_000_000, 10_000_000_000], [8, 64, 128]


@pytest.fixture(scope="module")
def points():
    return sweep(request_of(1, 8), ITEMS, RANKS)


def test_every_pair_is_there_in_order(points):
    assert [(p.plan.request.items, p.plan.request.ranks) for p in points] == list(
        itertools.product(ITEMS, RANKS)
    )


def test_memory_falls_with_ranks_and_grows_with_items(points):
    used = {(p.plan.request.items, p.plan.request.ranks): p.plan.fullest.used for p in points}
    for items in ITEMS:
        assert used[items, 8] > used[items, 64] > used[items, 128]
    for ranks in RANKS:
        assert used[ITEMS[0], ranks] < used[ITEMS[1], ranks] < used[ITEMS[2], ranks]


def test_what_fits_is_what_the_planner_says(points):
    fits = [point.fits for point in points]
    assert fits == [True] * 3 + [False, True, True] + [False, False, True]
    assert all(point.fits == (point.memory_share <= 1) for point in points)
    assert points[4].plan == plan(request_of(1_000_000_000, 64))


def test_table_and_json_say_the_same(points):
    lines = show_sweep(points).splitlines()[2:]
    found = json.loads(sweep_as_json(points))["points"]
    assert [line.endswith("| yes |") for line in lines] == [one["fits"] for one in found]
    assert [one["request"]["ranks"] for one in found] == RANKS * 3
    assert found[-1]["ranks"] == [
        {
            "ranks": [0, 127],
            "memory": found[-1]["ranks"][0]["memory"],
            "seconds": found[-1]["ranks"][0]["seconds"],
        }
    ]


def test_broken_numbers_of_ranks_are_told_before_anything_is_planned():
    told = []
    with pytest.raises(UserError, match="--ranks 12"):
        sweep(request_of(1_000_000, 8), [1_000_000], [8, 12], told.append)
    assert told == []


@pytest.mark.slow
def test_where_nothing_fits_the_least_lack_is_explained(points):
    check_any_fits(points)
    with pytest.raises(UserError, match=r"10B x 256 on 64 h200 does not fit.*--ranks 88"):
        check_any_fits([points[6], points[7]])


def test_figure(points, tmp_path):
    from torchrec_priors.planning.plot import plot

    plot(points, tmp_path / "sweep.svg")
    drawn = (tmp_path / "sweep.svg").read_text()
    assert "<svg" in drawn
    assert len(drawn) > 10_000
