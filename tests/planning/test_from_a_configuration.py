"""A run's configuration becomes the request of its tables, batch, negatives and dense parameters."""

import pytest
import tiny

from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.planning.machines import MACHINES
from torchrec_priors.planning.planner import plan
from torchrec_priors.planning.read_request import from_config
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.training.build import build_model

SETTINGS = tiny.settings(
    model={"context": 20},
    priors={"tree": ["temporal:2", "genre"]},
    negatives={"per_set": 16},
    training={"batch": 10},
)


def _request(settings, data=None, items=None, ranks=4):
    return from_config(parse(settings), data, items, ranks=ranks, machine=MACHINES["h200"])


def test_with_data_it_is_what_training_builds(small_data):
    data, config = PreparedData(small_data), parse(SETTINGS)
    request = _request(SETTINGS, data)
    table = request.tables[0]
    assert (table.rows, table.dim, table.per_window) == (data.items, 8, 24)
    assert request.local_batch == 3
    with join() as ranks:
        built = build_model(config, data, ranks)
    assert table.per_step == 16 * built.model.tree.item_sets
    heads_and_encoder = [*built.model.encoder.parameters(), *built.model.heads.parameters()]
    assert request.dense == sum(parameter.numel() for parameter in heads_and_encoder)


def test_features_have_tables_of_their_own(small_data):
    data = PreparedData(small_data)
    request = _request({**SETTINGS, "encoder": {"layers": 1, "item_features": ["title"]}}, data)
    assert [table.name for table in request.tables] == ["item", "feature_title"]
    assert (
        plan(request).fullest.table == sum(-(-table.rows // 4) for table in request.tables) * 8 * 4
    )


def test_items_in_place_of_the_data_sets(small_data):
    assert _request(SETTINGS, PreparedData(small_data), items=1_000_000).items == 1_000_000


def test_without_data_the_number_of_items_is_needed():
    assert _request(SETTINGS, items=1_000).tables[0].per_step == 16
    with pytest.raises(UserError, match="give --data, or the number of items as --items"):
        _request(SETTINGS)


def test_managed_tables_have_the_configured_rows():
    managed = {**SETTINGS, "embedding": {"unseen": "managed", "rows": 960}}
    assert _request(managed, items=1_000_000).items == 960


def test_tables_are_cut_as_the_configuration_says(small_data):
    data = PreparedData(small_data)
    settings = {
        **SETTINGS,
        "encoder": {"layers": 1, "item_features": ["title"]},
        "sharding": {"kernel": "fused", "tables": {"feature_title": {"type": "table_wise"}}},
    }
    found = plan(_request(settings, data))
    assert [(table.type, table.kernel) for table in found.tables] == [
        ("row_wise", "fused"),
        ("table_wise", "fused"),
    ]
    whole, quantised = (
        plan(_request({**SETTINGS, "sharding": {"communication": precision}}, data))
        for precision in ("fp32", "fp16")
    )
    assert quantised.slowest.vectors == whole.slowest.vectors / 2


def test_parts_of_a_step_are_looked_up_together(small_data):
    """All of them; what is kept for backward is a part's."""
    data = PreparedData(small_data)
    whole, parts = (
        plan(_request({**SETTINGS, "training": {"batch": 40, "accumulate": count}}, data))
        for count in (1, 5)
    )
    assert (whole.request.local_batch, whole.fullest.buffers) == (10, parts.fullest.buffers)
    assert whole.request.local_batch == parts.request.local_batch
    assert parts.fullest.activations < whole.fullest.activations
    assert whole.fullest.used == sum(
        getattr(whole.fullest, name)
        for name in ("table", "optimizer", "buffers", "dense", "activations")
    )


def test_what_nobody_has_counted_is_not_counted(small_data, tmp_path):
    encoder = {"backbone": "sasrec", "layers": 1}
    assert _request({**SETTINGS, "encoder": encoder}, PreparedData(small_data)).activations is None
