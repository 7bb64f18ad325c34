"""Sharding is configured: mistakes are named; plans cover every table, are kept, used again and carried out."""

import dataclasses
import json

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.config import parse
from torchrec_priors.embedding.dedup import once
from torchrec_priors.embedding.distribute import distribute, together
from torchrec_priors.embedding.item_table import Shard, fuse_optimizer, initialise_rows, table_of
from torchrec_priors.embedding.own_rows import own_rows
from torchrec_priors.embedding.plan import ModelPlan, ModelTable, Piece, TablePlan, even_blocks
from torchrec_priors.embedding.torchrec_plan import tables_of
from torchrec_priors.errors import UserError
from torchrec_priors.ranks.process import join
from torchrec_priors.settings.sharding import ShardingConfig, TableSharding

TABLES = [ModelTable("item", "table", 10, 16), ModelTable("feature_brand", "features.table", 5, 16)]


@pytest.mark.parametrize(
    ("sharding", "says"),
    [
        ({"type": "rowwise"}, "sharding.type = 'rowwise': did you mean 'row_wise'?"),
        (
            {"type": "data_parallel"},
            "sharding.type = 'data_parallel': .* use table_wise for small tables",
        ),
        (
            {"type": "table_row_wise"},
            "'table_row_wise': TorchRec offers it only for pooled tables: use row_wise",
        ),
        ({"type": "table_column_wise"}, "only for pooled tables: use column_wise"),
        ({"type": "grid_shard"}, "only for pooled tables: use row_wise or column_wise"),
        ({"kernel": "dense"}, "sharding.kernel = 'dense': did you mean 'fused'|valid: auto, fused"),
        ({"columns": 6}, "sharding.columns = 6 must be a multiple of 4"),
        ({"columns": 24}, "sharding.columns = 24 must divide model.dim = 64"),
        ({"cache_load_factor": 0.0}, "sharding.cache_load_factor = 0.0 must be in .0, 1.$"),
        ({"communication": "int8"}, "sharding.communication = 'int8': valid: bf16, fp16, fp32"),
        (
            {"tables": {"itme": {"type": "row_wise"}}},
            "sharding.tables: .* no table 'itme': did you mean 'item'?",
        ),
        ({"tables": {"feature_color": {}}}, "the model has no table 'feature_color'"),
        ({"tables": {"item": {"type": "grid_shard"}}}, "sharding.tables.item.type = 'grid_shard'"),
        ({"tables": {"item": {"kernel": "uvm"}}}, "sharding.tables.item.kernel = 'uvm'"),
        (
            {"tables": {"item": {"cache_load_factor": 2.0}}},
            "sharding.tables.item.cache_load_factor = 2.0 must be",
        ),
        (
            {"tables": {"item": {"typ": "row_wise"}}},
            "unknown configuration key 'sharding.tables.item.typ'",
        ),
        (
            {"plan": "p.json", "type": "auto"},
            "sharding.plan decides sharding.type: leave one of the two out",
        ),
    ],
)
def test_mistakes_are_named(sharding, says):
    with pytest.raises(UserError, match=says):
        parse({"encoder": {"item_features": ["brand", "price:8"]}, "sharding": sharding})


@pytest.mark.parametrize(
    ("sharding", "says"),
    [
        ({"type": "column_wise"}, "write sharding.tables.item.type = 'row_wise'"),
        ({"kernel": "fused_uvm"}, "write sharding.tables.item.kernel = 'fused'"),
    ],
)
def test_a_managed_table_stays_in_blocks_of_rows(sharding, says):
    managed = {"embedding": {"unseen": "managed", "rows": 96}}
    with pytest.raises(UserError, match=says):
        parse({**managed, "sharding": sharding})
    parse(
        {
            **managed,
            "sharding": {**sharding, "tables": {"item": {"type": "row_wise", "kernel": "fused"}}},
        }
    )


def test_what_a_cpu_cannot_do_is_refused_with_the_reason():
    for config, says in [
        (
            ShardingConfig(kernel="fused_uvm_caching"),
            "sharding.kernel = 'fused_uvm_caching' is for GPUs",
        ),
        (
            ShardingConfig(tables={"item": TableSharding(kernel="fused_uvm")}),
            "sharding.tables.item.kernel",
        ),
        (
            ShardingConfig(communication="bf16"),
            "'bf16' is for GPUs: gloo does not send it: use fp16",
        ),
    ]:
        config.check_device("cuda")
        with pytest.raises(UserError, match=says):
            config.check_device("cpu")


def test_what_was_trained_on_gpus_is_read_row_wise_on_any_device():
    tables = {"item": TableSharding("table_wise", "fused_uvm_caching", 0.4)}
    config = ShardingConfig(
        "column_wise", "fused_uvm", columns=8, tables=tables, communication="bf16"
    )
    config.for_reading("cpu").check_device("cpu")
    reading = config.for_reading("cuda")
    assert (reading.type_of("item"), reading.types_of("feature_x")) == ("row_wise", ["row_wise"])
    assert (reading.kernels_of("item"), reading.kernels_of("feature_x")) == (
        ["fused_uvm_caching"],
        ["fused_uvm"],
    )
    assert reading.load_factor_of("item") == 0.4


def test_settings_that_nothing_reads_are_known():
    assert ShardingConfig(columns=8).without_effect() == ["sharding.columns"]
    assert ShardingConfig(columns=8, type="auto").without_effect() == []
    assert ShardingConfig(kernel="fused", cache_load_factor=0.5).without_effect() == [
        "sharding.cache_load_factor"
    ]


def _plan(ranks=2, **changes):
    """Items row-wise, brands whole on the last rank."""
    blocks = even_blocks(10, ranks)
    rows = [Piece(rank, first, last - first, 0, 16) for rank, (first, last) in enumerate(blocks)]
    item = TablePlan(TABLES[0], "row_wise", "fused", rows)
    item = dataclasses.replace(item, **changes)
    return ModelPlan(
        ranks, [item, TablePlan(TABLES[1], "table_wise", "fused", [Piece(ranks - 1, 0, 5, 0, 16)])]
    )


COLUMNS = [Piece(0, 0, 10, 0, 8), Piece(1, 0, 10, 8, 8)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"pieces": [Piece(0, 0, 5, 0, 16)]},
            "is not cut into row_wise pieces that hold each value once",
        ),
        (
            {"pieces": [Piece(0, 0, 4, 0, 16), Piece(1, 4, 6, 0, 16)]},
            "is not cut into row_wise pieces",
        ),
        (
            {"pieces": [Piece(0, 0, 5, 0, 16), Piece(2, 5, 5, 0, 16)]},
            "names a rank that is not one of 2",
        ),
        ({"pieces": COLUMNS}, "is not cut into row_wise pieces"),
        ({"type": "column_wise", "pieces": COLUMNS[:1]}, "is not cut into column_wise pieces"),
        (
            {"type": "column_wise", "pieces": [*COLUMNS, COLUMNS[0]]},
            "is not cut into column_wise pieces",
        ),
        ({"type": "grid_shard"}, "is cut grid_shard"),
        (
            {"table": ModelTable("item", "table", 11, 16)},
            "for a table 'item' of 11 x 16, not of 10 x 16",
        ),
        ({"table": ModelTable("itme", "table", 10, 16)}, "does not cover table 'item'"),
    ],
)
def test_a_plan_must_hold_every_value_of_every_table_once(changes, says):
    _plan().check(TABLES, "it")
    _plan(type="column_wise", pieces=COLUMNS[::-1]).check(TABLES, "it")
    with pytest.raises(UserError, match=says):
        _plan(**changes).check(TABLES, "it")


def test_a_managed_table_is_cut_at_its_blocks():
    managed = [dataclasses.replace(TABLES[0], block=2), TABLES[1]]
    uneven = [Piece(0, 0, 6, 0, 16), Piece(1, 6, 4, 0, 16)]
    _plan(pieces=uneven).check(managed, "it")
    with pytest.raises(UserError, match="not cut into row_wise pieces"):
        _plan().check(managed, "it")
    with pytest.raises(UserError, match="is managed, so it must be cut row_wise"):
        _plan(type="column_wise", pieces=COLUMNS).check(managed, "it")


def test_a_plan_is_kept_and_read_again(tmp_path):
    file = tmp_path / "sharding.json"
    file.write_text(json.dumps(_plan().to_json()))
    assert ModelPlan.read(file) == _plan()
    assert "item           row_wise    fused  10 x 16  0.3 kB a rank" in _plan().in_words()
    assert "feature_brand  table_wise  fused  5 x 16   0 kB to 0.3 kB a rank" in _plan().in_words()
    ModelPlan.read(file).check_fits(TABLES, 2, "cpu", "it")
    with pytest.raises(UserError, match="is for 2 ranks, not for 3: run on 2, or make another"):
        ModelPlan.read(file).check_fits(TABLES, 3, "cpu", "it")
    with pytest.raises(UserError, match="kernel fused_uvm is for GPUs"):
        _plan(kernel="fused_uvm").check_fits(TABLES, 2, "cpu", "it")
    for wrong in ("{}", "[]", "no json"):
        file.write_text(wrong)
        with pytest.raises(UserError, match=r"sharding.plan: '.*sharding.json' holds no plan"):
            ModelPlan.read(file)


def _model():
    model = nn.Module()
    configs = [
        EmbeddingConfig(name=name, num_embeddings=rows, embedding_dim=16, feature_names=[name])
        for name, rows in (("item", 10), ("feature_brand", 5))
    ]
    model.table = table_of(configs)
    fuse_optimizer(model.table, 0.1)
    model.dense = nn.Linear(2, 2)
    return model


@pytest.mark.parametrize(
    ("sharding", "types", "pieces"),
    [
        (ShardingConfig(), ["row_wise"] * 2, [1, 1]),
        (ShardingConfig(type="auto"), None, None),
        (ShardingConfig(type="column_wise", columns=4), ["column_wise"] * 2, [4, 4]),
        (
            ShardingConfig(tables={"feature_brand": TableSharding("column_wise")}),
            ["row_wise", "column_wise"],
            [1, 1],
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_the_plan_is_what_was_asked_for_and_is_carried_out_again(
    sharding, types, pieces, tmp_path, monkeypatch
):
    monkeypatch.setattr("torchrec_priors.embedding.own_rows._ROWS_AT_A_TIME", 4)
    with join() as ranks:
        parallel, plan = distribute(_model(), ranks.device, sharding)
        assert [table.table for table in plan.tables] == tables_of(_model())
        if types is not None:
            assert [table.type for table in plan.tables] == types
            assert [len(table.pieces) for table in plan.tables] == pieces
        (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
        again, planned = distribute(
            _model(), ranks.device, ShardingConfig(plan=str(tmp_path / "plan.json"))
        )
        assert planned == plan
        for model in (parallel, again):
            for own in own_rows(model, plan, ranks.device, ranks.side).values():
                wanted = torch.zeros(own.plan.table.rows, 16)
                initialise_rows(Shard(wanted, 0), 3, 1.0)
                for shard in own.shards:
                    initialise_rows(shard, 3, 1.0, dim=16)
                assert torch.equal(own.fetch().rows, wanted), (
                    "values depend on how the table is cut"
                )
                block = own.fetch()
                block.rows.add_(1.0)
                own.store(block)
                assert torch.equal(own.fetch().rows, wanted + 1.0)


def test_a_plan_that_does_not_fit_is_refused_before_anything_is_sharded(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(_plan(ranks=2).to_json()))
    with join() as ranks, pytest.raises(UserError, match=r"plan.json' is for 2 ranks, not for 1"):
        distribute(_model(), ranks.device, ShardingConfig(plan=str(tmp_path / "plan.json")))


def test_a_users_mistake_is_not_dressed_up_as_the_planners():
    def make():
        raise UserError("this is wrong")

    with join(), pytest.raises(UserError, match=r"^this is wrong$"):
        together(make)


def test_each_id_is_asked_for_once():
    values = torch.randint(5, (40,))
    lengths = torch.tensor([3, 0, 17, 9, 11, 0])
    ids = KeyedJaggedTensor(keys=["a", "b"], values=values, lengths=lengths)
    asked, place = once(ids)
    vectors = torch.randn(5, 4)
    for key in ("a", "b"):
        of_key = asked[key].values()
        assert len(of_key.unique()) == len(of_key) <= 5
        assert torch.equal(vectors[of_key][place[key]], vectors[ids[key].values()])
