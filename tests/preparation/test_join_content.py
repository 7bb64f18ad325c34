"""Content that is joined of several parts: what a vector has, what is refused, and what an append changes."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_movielens import read_ratings, write_ratings

from torchrec_priors.apps.content import Action, content
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.append import append
from torchrec_priors.preparation.content.add import add_vectors
from torchrec_priors.preparation.content.join import Part, join_content
from torchrec_priors.preparation.describe import describe
from torchrec_priors.preparation.priors.add_prior import add_prior
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.prepared.content import read_content
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import verify

DIM = 5


@pytest.fixture
def data(small_data, tmp_path):
    """A data set with vectors of all items but the first ten."""
    folder = tmp_path / "data"
    shutil.copytree(small_data, folder)
    ids = PreparedData(folder).catalogue(["item_id"])["item_id"].to_pylist()[10:]
    values = np.random.default_rng(0).normal(size=(len(ids), DIM)).astype(np.float32)
    file = tmp_path / "vectors.parquet"
    pq.write_table(pa.table({"item_id": ids, "vector": list(values)}), file)
    add_vectors(PreparedData(folder), "text", file)
    return folder


def test_a_vector_has_all_parts_at_the_length_of_their_weights(data):
    prepared = PreparedData(data)
    info = join_content(prepared, "both", [Part("text"), Part("genre", 3.0)])
    verify(data)
    prepared = PreparedData(data)
    joined = read_content(prepared, "both")
    groups = prepared.manifest.prior("genre").groups
    assert (info.items, info.dim) == (len(joined.item_M), DIM + len(groups))

    text = read_content(prepared, "text")
    item_N, group_N = prepared.prior_pairs("genre", "item")
    assert np.bincount(item_N).max() > 1, "some items have several groups"
    expected_Ic = np.zeros((prepared.items, info.dim))
    lengths = np.linalg.norm(text.vector_Mc, axis=1, keepdims=True)
    expected_Ic[text.item_M, :DIM] = text.vector_Mc / lengths
    count_I = np.bincount(item_N, minlength=prepared.items)
    expected_Ic[item_N, DIM + group_N] = 3.0 / np.sqrt(count_I[item_N])
    assert joined.item_M.tolist() == np.flatnonzero(expected_Ic.any(1)).tolist()
    np.testing.assert_allclose(joined.vector_Mc, expected_Ic[joined.item_M], atol=1e-6)


def test_groups_alone_are_content(data):
    join_content(PreparedData(data), "genres", [Part("genre")])
    vector_Mc = read_content(PreparedData(data), "genres").vector_Mc
    np.testing.assert_allclose(np.linalg.norm(vector_Mc, axis=1), 1.0, atol=1e-6)


def test_the_same_parts_replace_it_and_others_do_not(data):
    parts = [Part("text"), Part("genre", 2.0)]
    join_content(PreparedData(data), "both", parts)
    first = read_content(PreparedData(data), "both").vector_Mc
    join_content(PreparedData(data), "both", parts)
    assert np.array_equal(read_content(PreparedData(data), "both").vector_Mc, first)
    for other in ([Part("text"), Part("genre", 3.0)], parts[:1], parts[::-1]):
        with pytest.raises(UserError, match="was made otherwise"):
            join_content(PreparedData(data), "both", other)
    join_content(PreparedData(data), "both", parts[:1], overwrite=True)
    assert read_content(PreparedData(data), "both").vector_Mc.shape[1] == DIM


def _grown(small_raw, data, folder, film=151, genre=""):
    """Appends a new film and its ratings; `genre` replaces its genres."""
    raw = folder / "raw"
    shutil.copytree(small_raw, raw)
    lines = (raw / "u.item").read_text(encoding="latin-1").splitlines()
    last = next(line for line in lines if line.startswith("150|"))
    new = last.replace("150|", f"{film}|", 1).replace("Café 150", f"New {film}")
    if genre:
        new = "|".join([*new.split("|")[:5], *genre])
    (raw / "u.item").write_text("\n".join([*lines, new]) + "\n", encoding="latin-1")
    latest = max(read_ratings(raw), key=lambda rating: rating.seconds)
    later = [film * 1000 + user for user in range(20, 30)]
    write_ratings(
        raw,
        [
            type(latest)(user, film, 4, latest.seconds + after)
            for user, after in zip(range(20, 30), later, strict=True)
        ],
    )
    return append(raw, data)


@pytest.mark.slow
def test_an_append_prints_the_command_that_joins_new_items(small_raw, data, tmp_path):
    parts = [Part("text"), Part("genre", 2.5)]
    join_content(PreparedData(data), "both", parts)
    before = read_content(PreparedData(data), "both")
    grown = _grown(small_raw, data, tmp_path)
    commands = [line.split("them: ")[1] for line in grown.messages if "no vectors; to" in line]
    assert len(commands) == 2
    assert "content add" in commands[0], "parts come first"
    assert commands[1].split()[1:] == [
        *("content", "join", "--data", str(data), "--name", "both", "--of", "text=1,genre=2.5")
    ]

    # The new item has no text, but groups.
    join_content(PreparedData(data), "both", parts)
    after = read_content(PreparedData(data), "both")
    assert after.item_M.tolist() == [*before.item_M.tolist(), 150]
    assert np.array_equal(after.vector_Mc[:-1], before.vector_Mc)
    assert not after.vector_Mc[-1, :DIM].any()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("", "no part was given"),
        ("text,text=2", "a part was given twice"),
        (
            "genres",
            "'genres' is no content and no prior of items of this data set, which has genre, text",
        ),
        ("text,genre=0", "'genre=0': a part is NAME or NAME=WEIGHT, with a weight above 0"),
        ("genre=much", "a weight above 0"),
        ("genre=inf", "a weight above 0"),
        ("=3", "a part is NAME or NAME=WEIGHT"),
        ("text,both", "'both' cannot be a part of itself"),
    ],
)
def test_mistakes_are_named(data, parts, message):
    before = PreparedData(data).manifest.text()
    with pytest.raises(UserError, match=message):
        join_content(
            PreparedData(data), "both", [Part.parse(part) for part in parts.split(",") if part]
        )
    assert PreparedData(data).manifest.text() == before


def test_too_many_groups_are_refused_before_memory_is_used(data):
    groups = 9000
    item = np.arange(groups, dtype=np.int32) % 150
    table = pa.table({"item": item, "group": np.arange(groups, dtype=np.int32)}).sort_by("item")
    names = [str(number) for number in range(groups)]
    made_by = {"kind": "mapping", "file": "x"}
    grouping = Grouping("item", names, [1] * groups, table, made_by)
    add_prior(data, "many", grouping, PreparedData(data).manifest)
    with pytest.raises(UserError, match=r"9,000 numbers for each item, but at most 4,096 are"):
        join_content(PreparedData(data), "both", [Part("many")])


def _with_prior(data, name, groups, first=0, **options):
    """Adds a prior with an item in each group; `first` is the item of the first group."""
    item = (np.arange(groups, dtype=np.int32) + first) % 150
    table = pa.table({"item": item, "group": np.arange(groups, dtype=np.int32)}).sort_by("item")
    made_by = {"kind": "mapping", "file": "x"}
    grouping = Grouping("item", [f"g{k}" for k in range(groups)], [1] * groups, table, made_by)
    add_prior(data, name, grouping, PreparedData(data).manifest, **options)


def test_groups_of_the_same_names_and_other_members_are_other_content(data):
    _with_prior(data, "shelf", 4)
    join_content(PreparedData(data), "both", [Part("text"), Part("shelf")])
    _with_prior(data, "shelf", 4, first=50, overwrite=True)
    with pytest.raises(UserError, match="was made otherwise"):
        join_content(PreparedData(data), "both", [Part("text"), Part("shelf")])


@pytest.mark.slow
def test_new_groups_of_an_append_do_not_change_the_width(small_raw, data, tmp_path):
    """An added prior gets a group for new items, and a new film has a genre that no film had."""
    _with_prior(data, "shelf", 150)
    parts = [Part("genre"), Part("shelf", 0.3)]
    first = join_content(PreparedData(data), "both", parts)
    before = read_content(PreparedData(data), "both")
    grown = _grown(small_raw, data, tmp_path, genre="0" * 18 + "1")
    (command,) = [line.split("them: ")[1] for line in grown.messages if "content both" in line]
    assert command.endswith("--name both --of genre=1,shelf=0.3")
    manifest = PreparedData(data).manifest
    assert len(manifest.prior("shelf").groups) > 150

    again = join_content(PreparedData(data), "both", parts)
    assert (again.identity, again.dim) == (first.identity, first.dim)
    after = read_content(PreparedData(data), "both")
    place = np.searchsorted(after.item_M, before.item_M)
    assert np.array_equal(after.vector_Mc[place], before.vector_Mc)

    # With all groups it is other content.
    wider = join_content(PreparedData(data), "both", parts, overwrite=True)
    assert wider.dim > first.dim
    assert wider.identity != first.identity


@pytest.mark.slow
def test_commands_of_joined_content_follow_those_of_their_parts(small_raw, data, tmp_path):
    join_content(PreparedData(data), "z", [Part("text"), Part("genre", 0.1 + 0.2)])
    join_content(PreparedData(data), "a", [Part("z"), Part("genre")])
    join_content(PreparedData(data), "b", [Part("a")])
    grown = _grown(small_raw, data, tmp_path)
    names = [line.split(":")[0] for line in grown.messages if "no vectors; to" in line]
    assert names == ["content text", "content z", "content a", "content b"]
    assert any("--of text=1,genre=0.30000000000000004" in line for line in grown.messages)

    # A cycle does not stop an append.
    join_content(PreparedData(data), "z", [Part("b")], overwrite=True)
    assert _grown(small_raw, data, tmp_path / "more", film=152).messages


def test_the_command_says_what_was_joined_and_refuses_other_options(data, tmp_path, capsys):
    content(Action.JOIN, str(data), "both", of="text, genre=2")
    assert capsys.readouterr().out.startswith("content both: 150 of 150 items have a vector of ")
    assert PreparedData(data).manifest.content_of("both").made_by["parts"] == {
        "text": 1,
        "genre": 2,
    }
    with pytest.raises(
        UserError, match="content join needs the names of its parts: --of text,genre"
    ):
        content(Action.JOIN, str(data), "other")
    for option, value in (("vectors", tmp_path), ("model", tmp_path), ("prompt", "x")):
        with pytest.raises(UserError, match=f"--{option} is not an option of content join"):
            content(Action.JOIN, str(data), "other", of="text", **{option: value})
    with pytest.raises(UserError, match="--of is not an option of content add"):
        content(Action.ADD, str(data), "other", of="text", vectors=tmp_path / "v.parquet")


def test_a_description_names_all_content(data):
    info = join_content(PreparedData(data), "both", [Part("text"), Part("genre", 2.5)])
    text = describe(PreparedData(data)).text
    assert (
        f"content both: 150 of 150 items have a vector of {info.dim} numbers, 0 have none; joined of text=1, genre=2.5\n"
        "content text: 140 of 150 items have a vector of 5 numbers, 10 have none; added from vectors.parquet\n"
    ) in text
