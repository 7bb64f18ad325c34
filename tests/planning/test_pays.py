"""The planner says whether smaller numbers between ranks, or all tables on every node, would pay."""

from dataclasses import replace

import pytest
from questions import request_of

from torchrec_priors.planning.pays import alternatives
from torchrec_priors.planning.planner import plan


def _of(items, ranks, **options):
    planned = plan(request_of(items, ranks, **options))
    return planned, {other.name.split()[0]: other for other in alternatives(planned)}


def test_a_single_rank_sends_nothing():
    assert alternatives(plan(request_of(1_000_000, 1, device="cpu"))) == []


@pytest.mark.parametrize(("device", "sent", "ranks"), [("h200", "bf16", 8), ("cpu", "fp16", 2)])
def test_numbers_of_16_bits_take_half_of_the_time_to_send_vectors(device, sent, ranks):
    planned, others = _of(1_000_000, ranks, device=device)
    (name,) = others  # within a node, 2D sharding is the plan itself
    assert name == f"sharding.communication={sent}"
    smaller = replace(
        planned.request, sharding=replace(planned.request.sharding, communication=sent)
    )
    assert others[name].step == pytest.approx(plan(smaller).slowest.step)
    halved = planned.slowest.vectors / 2
    assert planned.slowest.step - others[name].step >= halved * 0.99
    assert alternatives(plan(smaller)) == []


def test_a_large_table_is_not_averaged_in_every_step():
    """The share of a rank of one node is 1/8 of the rows; 8 nodes average 7/4 of its bytes."""
    planned, others = _of(100_000_000, 64)
    two = others["all"]
    rows = 100_000_000 // 8
    averaged = 2 * 7 / 8 * (rows * 256 * 4 + rows * 4) / planned.request.machine.network_bandwidth
    assert two.step > planned.slowest.step
    assert two.step - averaged < planned.slowest.step
    assert two.says.startswith("does not pay: ")
    every = int(two.says.split("averaged every ")[1].split(" ")[0])
    saved = planned.slowest.step - (two.step - averaged)
    assert averaged / every <= saved < averaged / (every - 1)


def test_a_small_table_is_averaged_faster_than_its_vectors_are_sent():
    planned, others = _of(20_000, 16)
    two = others["all"]
    assert two.step < planned.slowest.step
    assert "does not pay" not in two.says


def test_tables_that_a_node_cannot_hold():
    _, others = _of(10_000_000_000, 128)
    assert others["all"].step is None
    assert others["all"].says == "does not fit into a node"
