"""First values of the item table from a file of vectors: on any number of ranks, however the table is cut."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from distributed.ranks import run_on_ranks

from torchrec_priors.config import load_config, parse
from torchrec_priors.errors import UserError
from torchrec_priors.prepared import vector_files
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.training import loop
from torchrec_priors.training.observers import Observers
from torchrec_priors.training.run.folder import RunFolder

DIM = 8
SETTINGS = tiny.settings(
    model={"dim": DIM},
    table={"learning_rate": 0.0},
    training={"steps": 1, "evaluate_every": 1, "learning_rate": 0.0},
)


def start(data, run, file, entries, **more):
    """(The whole table, its map of items) of a run that learns nothing."""
    assert vector_files._NUMBERS_AT_A_TIME, "the name in the module"
    vector_files._NUMBERS_AT_A_TIME = entries
    config = parse(tiny.merged(SETTINGS, table={"pretrained": str(file or "")}, **more))
    with join() as ranks:
        started = loop._Run(config, PreparedData(data), RunFolder(run), ranks, None, Observers())
        started.go()
        started.checkpoints.close()
        started.logs.close()
        rows = started.built.model.item_rows
        return tiny.whole_table(started.built, ranks), rows.row_I, rows.own_row_I


def _ids(small_data):
    return PreparedData(small_data).catalogue(["item_id"])["item_id"].to_pylist()


@pytest.fixture
def vectors(small_data):
    """Ids and vectors of all but ten items and of three that nobody knows, in no order."""
    random = np.random.default_rng(0)
    ids = [*_ids(small_data)[10:], 9001, 9002, 9003]
    return random.permutation(ids).tolist(), random.normal(size=(len(ids), DIM)).astype(np.float32)


def _write(file, ids, vectors, kind=None):
    kind = kind or pa.list_(pa.float32(), DIM)
    pq.write_table(
        pa.table({"item_id": ids, "vector": pa.array(list(vectors), kind)}), file, row_group_size=50
    )
    return file


def _expected(small_data, plain, ids, vectors):
    place = {item: number for number, item in enumerate(_ids(small_data))}
    expected = plain.clone()
    for item, vector in zip(ids, vectors, strict=True):
        if item in place:
            expected[place[item]] = torch.from_numpy(vector)
    return expected


@pytest.mark.parametrize(
    "kind", [None, pa.list_(pa.float64()), pa.large_list(pa.float32())], ids=str
)
def test_rows_are_the_file_s_and_the_others_their_own(small_data, tmp_path, vectors, kind, caplog):
    caplog.set_level("INFO", "torchrec_priors")
    file = _write(tmp_path / "vectors.parquet", *vectors, kind)
    plain, *_ = start(small_data, tmp_path / "plain", None, 1)
    found, *_ = start(small_data, tmp_path / "run", file, 7 * DIM)
    assert torch.equal(found, _expected(small_data, plain, *vectors))
    assert not torch.equal(found, plain)
    said = [
        record.getMessage()
        for record in caplog.records
        if "vectors of 140 of 150 items" in record.getMessage()
    ]
    assert (
        "10 keep their first values; 3 items of the file are unknown, 0 have no row of their own"
        in said[0]
    )


@pytest.mark.slow
def test_two_ranks_and_columns_start_alike(small_data, tmp_path, vectors):
    file = _write(tmp_path / "vectors.parquet", [str(item) for item in vectors[0]], vectors[1])
    (one, *_) = start(small_data, tmp_path / "one", file, 1 << 20)
    columns = {"sharding": {"type": "column_wise", "columns": 4}}
    (cut, *_) = start(small_data, tmp_path / "cut", file, 1 << 20, **columns)
    assert torch.equal(cut, one)
    for two, *_ in run_on_ranks(2, start, small_data, tmp_path / "two", file, 64 * DIM):
        assert torch.equal(two, one)


def test_items_without_a_row_to_themselves_leave_the_shared_one_alone(
    small_data, tmp_path, vectors
):
    shared = {"embedding": {"unseen": "shared", "min_frequency": 12}}
    file = _write(tmp_path / "vectors.parquet", *vectors)
    plain, row_I, own_row_I = start(small_data, tmp_path / "plain", None, 1, **shared)
    found, *_ = start(small_data, tmp_path / "run", file, 1 << 20, **shared)
    place = {item: number for number, item in enumerate(_ids(small_data))}
    for item, vector in zip(*vectors, strict=True):
        if item in place and own_row_I[place[item]]:
            plain[row_I[place[item]]] = torch.from_numpy(vector)
    assert torch.equal(found, plain)
    assert not own_row_I.all()


def _with(vectors, row, value):
    changed = list(vectors)
    changed[row] = value
    return changed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda ids, v: (ids, [x[:4] for x in v], pa.list_(pa.float32(), 4)),
            "have 4 numbers, and model.dim = 8",
        ),
        (
            lambda ids, v: (ids, _with(v, 5, [1.0]), pa.list_(pa.float32())),
            "row 6 .* has a vector of 1 numbers",
        ),
        (lambda ids, v: (ids, _with(v, 5, None), pa.list_(pa.float32())), "row 6 .* has no vector"),
        (lambda ids, v: (ids, _with(v, 5, None), None), "row 6 .* has no vector"),
        (lambda ids, v: (ids, _with(v, 5, [None, *[1.0] * 7]), None), "row 6 .* not finite"),
        (
            lambda ids, v: (ids, _with(v, 90, [float("inf"), *[1.0] * 7]), None),
            "row 91 .* not finite",
        ),
        (lambda ids, v: ([*ids[:-1], ids[0]], v, None), "two vectors of item"),
        (lambda ids, v: ([None, *ids[1:]], v, None), "row 1 of .* has no item_id"),
        (
            lambda ids, v: (list(range(5000, 5000 + len(ids))), v, None),
            "vectors of 143 items, none of them in",
        ),
        (
            lambda ids, v: (ids, [[int(y) for y in x] for x in v], pa.list_(pa.int32())),
            "give lists of floating-point",
        ),
    ],
)
def test_files_that_are_refused(small_data, tmp_path, vectors, change, says):
    ids, values, kind = change(*vectors)
    file = _write(tmp_path / "vectors.parquet", ids, values, kind)
    with pytest.raises(UserError, match=f"^table.pretrained: .*{says}"):
        start(small_data, tmp_path / "run", file, 64 * DIM)
    assert not (tmp_path / "run").exists()


def test_other_mistakes(small_data, tmp_path, vectors, monkeypatch):
    with pytest.raises(UserError, match=r"table.pretrained: there is no file"):
        start(small_data, tmp_path / "run", tmp_path / "none.parquet", 64)
    (tmp_path / "text").write_text("item_id,vector")
    with pytest.raises(UserError, match=r"table.pretrained: '.*text' cannot be read as Parquet"):
        start(small_data, tmp_path / "run", tmp_path / "text", 64)
    pq.write_table(pa.table({"item": [1]}), tmp_path / "other")
    with pytest.raises(UserError, match=r"has no column 'item_id' \(it has item\)"):
        start(small_data, tmp_path / "run", tmp_path / "other", 64)
    managed = {"embedding": {"unseen": "managed", "rows": 120, "blocks": 4}}
    with pytest.raises(UserError, match=r"table.pretrained needs items that keep their rows"):
        start(small_data, tmp_path / "run", _write(tmp_path / "v", *vectors), 64, **managed)
    (tmp_path / "config.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    config = load_config(tmp_path / "config.toml", ["table.pretrained=v"])
    assert config.table.pretrained == str(tmp_path / "v")
    with pytest.raises(UserError, match="is a URI"):
        load_config(tmp_path / "config.toml", ["table.pretrained=s3://bucket/v"])
