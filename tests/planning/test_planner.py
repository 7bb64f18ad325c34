"""What TorchRec's planner answers is the arithmetic of shards, and of what a step reads."""

import pytest
from questions import request_of

from torchrec_priors.planning.planner import DoesNotFit, plan
from torchrec_priors.planning.request import RequestedTable

IDS = 128 * 200  # of windows, a rank


def _bytes_of_lookups(ranks, dim=256, negatives=8_192, number=4):
    ids = IDS + -(-negatives // ranks)
    return ids * 8 + ids * dim * number


@pytest.mark.parametrize(
    ("items", "ranks", "device"),
    [(1_000_000_000, 64, "h200"), (1_255_665, 1, "cpu"), (1_255_665, 2, "cpu")],
)
def test_a_rank_has_its_share_of_rows_and_of_row_wise_state(items, ranks, device):
    memory = plan(request_of(items, ranks, device=device)).fullest
    rows = -(-items // ranks)
    assert (memory.table, memory.optimizer) == (rows * 256 * 4, rows * 4)
    assert memory.buffers == pytest.approx(_bytes_of_lookups(ranks), rel=1e-6)


def test_two_ranks_hold_half_each():
    found = plan(request_of(1_000_000, 2, dim=64, device="cpu"))
    assert [(shard.rank, shard.rows, shard.first_row) for shard in found.tables[0].pieces] == [
        (0, 500_000, 0),
        (1, 500_000, 500_000),
    ]
    whole = plan(request_of(1_000_000, 1, dim=64, device="cpu"))
    assert [memory.table for memory in found.memory_W] == [whole.fullest.table // 2] * 2


def test_shards_cover_the_table_where_rows_do_not_divide():
    shards = plan(request_of(1_255_665, 64)).tables[0].pieces
    assert [shard.first_row for shard in shards] == [19_620 * rank for rank in range(64)]
    assert sum(shard.rows for shard in shards) == 1_255_665


def test_fewer_rows_than_ranks():
    found = plan(request_of(10, 64))
    assert [memory.table for memory in found.memory_W] == [256 * 4] * 10 + [0] * 54


@pytest.mark.parametrize(("optimizer", "numbers"), [("sgd", 0), ("adagrad", 256), ("adam", 512)])
def test_state_of_other_optimizers(optimizer, numbers):
    memory = plan(request_of(1_000_000, 8, optimizer=optimizer)).fullest
    assert memory.optimizer == 125_000 * numbers * 4
    assert memory.buffers == pytest.approx(_bytes_of_lookups(8), rel=1e-6)


def test_halved_rows_keep_a_whole_state():
    """TorchRec itself would halve it, too."""
    memory = plan(request_of(1_000_000, 8, rows="fp16")).fullest
    assert (memory.table, memory.optimizer) == (125_000 * 256 * 2, 125_000 * 4)
    assert memory.buffers == pytest.approx(_bytes_of_lookups(8, number=2), rel=1e-6)


def test_column_shards_have_a_state_each():
    found = plan(request_of(1_000_000, 8, sharding="column_wise"))
    assert [(shard.rows, shard.columns) for shard in found.tables[0].pieces] == [
        (1_000_000, 32)
    ] * 8
    assert sorted(memory.optimizer for memory in found.memory_W) == [4_000_000] * 8


def test_rows_in_the_hosts_memory():
    memory = plan(request_of(1_000_000_000, 8, kernel="fused_uvm")).fullest
    assert memory.host == 125_000_000 * (256 * 4 + 4)
    assert memory.table == 0
    cached = plan(request_of(1_000_000_000, 8, kernel="fused_uvm_caching")).fullest
    assert cached.host == memory.host
    assert 0.2 * memory.host < cached.table < 0.21 * memory.host


def test_time_is_bytes_by_bandwidth():
    found = plan(request_of(1_000_000_000, 64))
    vectors = (IDS + 8_192 // 64) * 256 * 4
    assert found.slowest.vectors == pytest.approx(vectors / 50e9)
    near = plan(request_of(1_000_000, 8))
    assert near.slowest.vectors == pytest.approx((IDS + 8_192 // 8) * 256 * 4 / 450e9)
    assert found.seconds_per_million == pytest.approx(found.slowest.step / 128 * 1e6)


def test_one_rank_sends_nothing():
    time = plan(request_of(1_000_000, 1)).slowest
    assert time.vectors == 0
    assert time.lookup > 0


def test_several_tables():
    one = request_of(1_000_000, 8)
    several = plan(
        type(one)(
            tables=(*one.tables, RequestedTable("brand", 800, 256, 100)),
            ranks=8,
            machine=one.machine,
            batch=128,
        )
    )
    assert [(plan.table.name, plan.table.rows) for plan in several.tables] == [
        ("item", 1_000_000),
        ("brand", 800),
    ]
    assert several.fullest.table == (125_000 + 100) * 256 * 4


def test_what_does_not_fit_is_named_with_its_bytes():
    with pytest.raises(DoesNotFit) as lack:
        plan(request_of(1_000_000_000, 8))
    says = str(lack.value)
    assert "table 'item' (row_wise, fused) needs 128.53 GB on rank 0" in says
    assert "there are 119.85 GB (141.00 GB less 21.15 GB reserved" in says
    assert lack.value.needed.fullest.table == 128_000_000_000


def test_reserve_and_dense_model_take_their_part_on_cpus_too():
    request = request_of(
        1_000_000,
        1,
        dim=64,
        device="cpu",
        memory="400MB",
        reserve=0.1,
        numbers={"dense": "1M", "batch": 1},
    )
    assert plan(request).fullest.dense == 16_000_000
    for tighter in ({"reserve": 0.35}, {"dense": 10_000_000}):
        with pytest.raises(DoesNotFit):
            plan(type(request)(**{**vars(request), **tighter}))


def test_host_memory_can_be_what_lacks():
    with pytest.raises(
        DoesNotFit, match=r"needs 514.00 GB of rank 0's host memory and there are 256.00 GB"
    ):
        plan(request_of(1_000_000_000, 2, kernel="fused_uvm"))
