"""Vectors of items as a part of a prepared data set: what is counted, what is refused, what an append keeps."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_movielens import read_ratings, write_ratings

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.append import append
from torchrec_priors.preparation.content.add import add_vectors
from torchrec_priors.preparation.content.texts import item_texts
from torchrec_priors.preparation.priors.add_prior import add_prior
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.prepared.content import read_content
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import verify

DIM = 6


@pytest.fixture
def data(small_data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(small_data, folder)
    return folder


@pytest.fixture(scope="module")
def vectors(small_data):
    """Ids and vectors of all but ten items and of two that nobody knows, in no order; one is zero."""
    random = np.random.default_rng(0)
    known = PreparedData(small_data).catalogue(["item_id"])["item_id"].to_pylist()
    ids = random.permutation([*known[10:], 9001, 9002]).tolist()
    values = random.normal(size=(len(ids), DIM)).astype(np.float32)
    values[ids.index(known[10])] = 0.0
    return ids, values


def _parquet(file, ids, values, kind=None):
    column = pa.array(list(values), kind or pa.list_(pa.float32(), DIM))
    pq.write_table(pa.table({"item_id": ids, "vector": column}), file)
    return file


def test_vectors_are_kept_by_item_and_everything_left_out_is_counted(data, tmp_path, vectors):
    before = PreparedData(data).manifest
    added = add_vectors(PreparedData(data), "mine", _parquet(tmp_path / "v.parquet", *vectors))
    assert added.messages == [
        "content mine: 139 of 150 items have a vector of 6 numbers, 11 have none",
        "2 vectors of items that the data set lacks were left out",
        "1 vectors of zeros were left out",
    ]
    verify(data)
    prepared = PreparedData(data)
    assert prepared.manifest.prepared_sha256 == before.prepared_sha256, "runs still know the data"
    assert prepared.manifest.content_sha256 != before.content_sha256

    content = read_content(prepared, "mine")
    ids = prepared.catalogue(["item_id"])["item_id"].to_numpy()[content.item_M]
    vector_of = dict(zip(vectors[0], vectors[1], strict=True))
    assert len(ids) == 139
    for item, vector in zip(ids.tolist(), content.vector_Mc, strict=True):
        assert vector.tolist() == vector_of[item].tolist()


def test_an_array_with_ids_is_the_same(data, tmp_path, vectors):
    np.save(tmp_path / "v.npy", vectors[1])
    (tmp_path / "ids.txt").write_text("".join(f"{item}\n" for item in vectors[0]))
    prepared = PreparedData(data)
    add_vectors(prepared, "array", tmp_path / "v.npy", tmp_path / "ids.txt")
    add_vectors(PreparedData(data), "table", _parquet(tmp_path / "v.parquet", *vectors))
    one, other = (read_content(PreparedData(data), name) for name in ("array", "table"))
    assert one.item_M.tolist() == other.item_M.tolist()
    assert np.array_equal(one.vector_Mc, other.vector_Mc)


def test_content_is_replaced_by_vectors_of_the_same_model_only(data, tmp_path, vectors):
    file = _parquet(tmp_path / "v.parquet", *vectors)
    add_vectors(PreparedData(data), "mine", file, made_with="one")
    again = _parquet(tmp_path / "w.parquet", vectors[0][:50], 2 * vectors[1][:50])
    with pytest.raises(UserError, match="content 'mine' was made otherwise"):
        add_vectors(PreparedData(data), "mine", again, made_with="two")
    assert add_vectors(PreparedData(data), "mine", again, made_with="one").info.items < 51
    add_vectors(PreparedData(data), "mine", file, made_with="two", overwrite=True)
    (info,) = PreparedData(data).manifest.content
    assert (info.items, info.identity) == (139, "vectors: two")
    verify(data)


def test_priors_and_content_do_not_lose_each_other(data, tmp_path, vectors):
    add_vectors(PreparedData(data), "mine", _parquet(tmp_path / "v.parquet", *vectors))
    item = np.arange(150, dtype=np.int32)
    table = pa.table({"item": item, "group": item % 2})
    grouping = Grouping("item", ["a", "b"], [75, 75], table, {"kind": "mapping", "file": "x"}, [])
    manifest = add_prior(data, "halves", grouping, PreparedData(data).manifest)
    assert [info.name for info in manifest.content] == ["mine"]
    verify(data)


def test_mistakes_are_named(data, tmp_path, vectors):
    ids, values = vectors
    prepared = PreparedData(data)
    np.save(tmp_path / "v.npy", values)
    np.save(tmp_path / "flat.npy", values.ravel())
    (tmp_path / "few.txt").write_text("1\n2\n")
    nan = values.copy()
    nan[3, 2] = np.nan
    uneven = pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"item_id": ids[:2], "vector": uneven}), tmp_path / "uneven.parquet")
    cases = [
        (_parquet(tmp_path / "nan.parquet", ids, nan), None, r"row 4 of .* not finite"),
        (tmp_path / "uneven.parquet", None, "a vector of 2 numbers, and the first has 1"),
        (_parquet(tmp_path / "x.parquet", [9001], values[:1]), None, "none of them in"),
        (
            _parquet(tmp_path / "t.parquet", ids[:1] * 2, values[:2]),
            None,
            "has two vectors of item",
        ),
        (tmp_path / "v.npy", None, "has no ids: give the file of its items with --ids"),
        (tmp_path / "v.npy", tmp_path / "few.txt", "has 2 ids"),
        (tmp_path / "flat.npy", tmp_path / "few.txt", "array of floating-point numbers"),
        (tmp_path / "none.parquet", None, "there is no file"),
    ]
    for file, ids_file, message in cases:
        with pytest.raises(UserError, match=message):
            add_vectors(prepared, "mine", file, ids_file)
    with pytest.raises(UserError, match="--name"):
        add_vectors(prepared, "../mine", tmp_path / "v.npy", tmp_path / "few.txt")
    with pytest.raises(UserError, match="has no content 'mine': add it with"):
        read_content(prepared, "mine")
    assert not prepared.manifest.content


def test_texts_are_columns_and_labels(small_data):
    prepared = PreparedData(small_data)
    titles = prepared.catalogue(["title"])["title"].to_pylist()
    groups = prepared.manifest.prior("genre").groups
    item_M, group_M = prepared.prior_pairs("genre", "item")
    texts = item_texts(prepared, ["title", "genre"]).to_pylist()
    for item in (0, 70, 149):
        labels = [groups[group] for group in sorted(group_M[item_M == item])]
        assert texts[item] == f"{titles[item]}. {', '.join(labels)}"
    assert item_texts(prepared, ["title"]).to_pylist() == titles
    with pytest.raises(UserError, match="--columns: the data set has no column or prior of items"):
        item_texts(prepared, ["titel"])


@pytest.mark.slow
def test_an_append_keeps_vectors_and_says_which_items_have_none(small_raw, data, tmp_path, vectors):
    add_vectors(PreparedData(data), "mine", _parquet(tmp_path / "v.parquet", *vectors))
    before = read_content(PreparedData(data), "mine")
    raw = tmp_path / "more"
    shutil.copytree(small_raw, raw)
    lines = (raw / "u.item").read_text(encoding="latin-1").splitlines()
    new = lines[-1].replace("150|", "151|", 1).replace("Café 150", "New 151")
    (raw / "u.item").write_text("\n".join([*lines, new]) + "\n", encoding="latin-1")
    last = max(read_ratings(raw), key=lambda rating: rating.seconds)
    extra = [type(last)(user, 151, 4, last.seconds + user) for user in range(20, 30)]
    write_ratings(raw, extra)
    grown = append(raw, data)
    assert grown.manifest.counts["items"] == 151
    (message,) = [line for line in grown.messages if line.startswith("content mine")]
    assert "1 new items have no vectors; to add them: torchrec-priors content add" in message
    verify(data)
    after = read_content(PreparedData(data), "mine")
    assert after.item_M.tolist() == before.item_M.tolist()
    assert np.array_equal(after.vector_Mc, before.vector_Mc)
    assert json.loads((data / "manifest.json").read_text())["content"][0]["name"] == "mine"
