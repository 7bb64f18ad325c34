"""Changes that are said to fit do, and a smaller one of their kind does not."""

from dataclasses import replace

import pytest
from questions import request_of

from torchrec_priors.errors import UserError
from torchrec_priors.planning.fits import plan_or_explain, smallest_changes
from torchrec_priors.planning.planner import DoesNotFit, plan


def _changes(request):
    return {
        change.says.split()[0].strip(): change.plan.request for change in smallest_changes(request)
    }


def test_each_change_fits_and_is_the_least_of_its_kind():
    asked = request_of(1_000_000_000, 8)
    found = _changes(asked)
    assert list(found) == ["--kernel", "--rows", "--ranks", "--dim"]
    for request in found.values():
        plan(request)
    assert found["--rows"] == replace(asked, rows="fp16")
    assert found["--ranks"] == replace(asked, ranks=16)
    assert found["--dim"] == asked.with_dim(236)
    with pytest.raises(DoesNotFit):
        plan(asked.with_dim(240))


def test_fewest_ranks_are_found_between_powers_of_two():
    asked = request_of(5_000_000_000, 8)
    ranks = _changes(asked)["--ranks"].ranks
    assert ranks == 48
    with pytest.raises(DoesNotFit):
        plan(replace(asked, ranks=40))


def test_ranks_of_one_node_come_one_by_one():
    asked = request_of(300_000_000, 2)
    assert _changes(asked)["--ranks"].ranks == 3
    assert plan(replace(asked, ranks=3)).fullest.table == 100_000_000 * 1024


def test_beyond_one_node_ranks_are_whole_nodes():
    assert _changes(request_of(1_000_000_000, 4))["--ranks"].ranks == 16


def test_what_costs_nothing_comes_first():
    found = _changes(request_of(200_000_000, 8, sharding="table_wise"))
    assert next(iter(found)) == "--sharding"
    found = _changes(request_of(400_000_000, 8, optimizer="adam"))
    assert next(iter(found)) == "--optimizer"


def test_fewer_windows_where_they_are_what_is_too_much():
    asked = request_of(1_000_000, 8, memory="4GB", numbers={"batch": 50_000})
    [batch] = [
        change.plan.request.batch for change in smallest_changes(asked) if "--batch" in change.says
    ]
    plan(replace(asked, batch=batch))
    with pytest.raises(DoesNotFit):
        plan(replace(asked, batch=batch + 1))


def test_one_line_says_what_lacks_and_what_would_do():
    with pytest.raises(UserError) as refused:
        plan_or_explain(request_of(1_000_000_000, 8))
    says = str(refused.value)
    assert "\n" not in says
    assert "needs 128.53 GB on rank 0" in says
    assert "--ranks 16 (2 nodes of 8) instead of 8" in says


def test_a_dense_model_that_leaves_nothing_is_what_is_named():
    with pytest.raises(
        UserError, match=r"dense model, which every rank holds, needs 160.00 GB.*no single change"
    ):
        plan_or_explain(request_of(1_000_000, 8, numbers={"dense": "10B"}))


def test_fewer_windows_at_a_time_and_recomputing_where_activations_are_too_much():
    asked = request_of(100_000_000, 8, numbers={"layers": 32, "batch": 1280})
    found = _changes(asked)
    assert list(found)[:2] == ["--accumulate", "--recompute"]
    parts = found["--accumulate"].activations.accumulate
    with pytest.raises(DoesNotFit, match=r"GB of activations"):
        plan(asked.with_activations(accumulate=parts - 1))
    assert found["--recompute"] == asked.with_activations(recompute=True)
    [batch] = [
        change.plan.request for change in smallest_changes(asked) if "--batch" in change.says
    ]
    assert 1280 // parts <= batch.batch < 1280
