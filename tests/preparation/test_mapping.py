"""Priors from a file of one's own, and from an attribute that is there."""

import collections
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_prepare import _people, _row_of

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.priors.attribute import from_attribute
from torchrec_priors.preparation.priors.mapping import from_mapping
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import read_manifest


def _map(data, file, entity="item_id", name="mood"):
    return from_mapping(name, entity, file, PreparedData(data))


def _write(file, rows, entity="item_id"):
    if file.suffix == ".csv":
        file.write_text(
            "\n".join([f"{entity},label", *(f'{key},"{label}"' for key, label in rows)]) + "\n"
        )
    else:
        keys, labels = zip(*rows, strict=True)
        pq.write_table(pa.table({"label": labels, entity: keys}), file)
    return file


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_items_have_their_labels_and_the_others_are_a_group(form, small_data, tmp_path):
    rows = [
        (1, "calm"),
        (2, "calm, slow"),
        (2, "calm"),
        (3, "loud"),
        (2, "calm"),
        (9999, "loud"),
        (9998, "x"),
    ]
    made = _map(small_data, _write(tmp_path / f"moods.{form}", rows))
    assert (made.kind, made.groups, made.sizes) == (
        "item",
        ["no mood", "calm", "calm, slow", "loud"],
        [147, 2, 1, 1],
    )
    row = _row_of(small_data)
    expected = [(row[film], 0) for film in row if film > 3]
    expected += [(row[1], 1), (row[2], 1), (row[2], 2), (row[3], 3)]
    assert list(zip(*made.table.to_pydict().values(), strict=True)) == sorted(expected)
    assert made.table.schema.field("group").type == pa.int32()
    assert made.messages[0].endswith("7 rows, 3 of 150 items in a group")
    assert made.messages[1].endswith("2 ids are not items of the data set and were left out")
    assert (made.made_by["kind"], made.made_by["file"], made.made_by["unknown_ids"]) == (
        "mapping",
        f"moods.{form}",
        2,
    )


def test_users_and_an_empty_remainder(small_data, tmp_path):
    users = pq.read_table(small_data / "sequences")["user_id"].to_pylist()
    rows = [(user, "ab"[user % 2]) for user in users]
    made = _map(small_data, _write(tmp_path / "tiers.csv", rows, "user_id"), "user_id", "tier")
    assert made.kind == "user"
    assert sorted(made.groups) == ["a", "b", "no tier"]
    assert (made.groups[-1], made.sizes[-1]) == ("no tier", 0)
    names = {
        user: made.groups[group]
        for user, group in zip(*made.table.to_pydict().values(), strict=True)
    }
    assert names == dict(rows)
    assert len(made.messages) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("item,label\n1,a\n", r"moods\.csv has no column item_id \(it has item, label\)"),
        ("item_id,name\n1,a\n", r"moods\.csv has no column label"),
        (
            "item_id,label\n1,a\n2\n",
            r"moods\.csv, line 3: 1 fields where 2 are expected.*\(correct it or leave it out\)",
        ),
        ("item_id,label\n1,a\n\n2,\n", r"moods\.csv, line 4: no label: leave such rows out"),
        ("item_id,label\n,a\n", r"moods\.csv, line 2: no item_id"),
        ("item_id,label\nx7,a\n", r"names none of the data set's items \(its first is 'x7'\)"),
        ("item_id,label\n", "holds no rows"),
        ("", "is empty"),
    ],
)
def test_a_wrong_mapping_is_named(text, says, small_data, tmp_path):
    (tmp_path / "moods.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        _map(small_data, tmp_path / "moods.csv")


def test_wrong_parquet_and_missing_files_are_named(small_data, tmp_path):
    with pytest.raises(
        UserError, match=rf"--from: there is no file '{re.escape(str(tmp_path / 'none.csv'))}'"
    ):
        _map(small_data, tmp_path / "none.csv")
    with pytest.raises(UserError, match="--from: there is no file"):
        _map(small_data, tmp_path)
    pq.write_table(pa.table({"item_id": [1, 2], "label": ["a", None]}), tmp_path / "moods.parquet")
    with pytest.raises(UserError, match=r"moods\.parquet, row 2: no label"):
        _map(small_data, tmp_path / "moods.parquet")
    pq.write_table(pa.table({"item_id": [1, 2]}), tmp_path / "moods.parquet")
    with pytest.raises(UserError, match=r"moods\.parquet has no column label \(it has item_id\)"):
        _map(small_data, tmp_path / "moods.parquet")
    (tmp_path / "moods.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"moods\.parquet' cannot be read"):
        _map(small_data, tmp_path / "moods.parquet")


def _expected(data, raw, keep):
    """User -> occupation, or others where `keep` does not hold it."""
    users = pq.read_table(data / "sequences")["user_id"].to_pylist()
    jobs = {user: _people(raw)[user]["occupation"] for user in users}
    return {
        user: job if job in keep else "others" for user, job in jobs.items() if job != "other"
    } | {
        user: "other" if "other" in keep else "others"
        for user, job in jobs.items()
        if job == "other"
    }


@pytest.mark.parametrize(
    "options", [{"groups": 3, "min_size": 1}, {"groups": None, "min_size": 15}]
)
def test_small_groups_of_an_attribute_are_merged(options, small_data, small_raw):
    old = read_manifest(small_data).prior("occupation")
    if options["groups"]:
        keep = old.groups[:2]
    else:
        keep = [
            name
            for name, size in zip(old.groups, old.sizes, strict=True)
            if size >= options["min_size"]
        ]
    assert 0 < len(keep) < sum(size > 0 for size in old.sizes)
    made = from_attribute("occupation", PreparedData(small_data), **options)
    expected = _expected(small_data, small_raw, keep)
    names = {
        user: made.groups[group]
        for user, group in zip(*made.table.to_pydict().values(), strict=True)
    }
    assert names == expected
    assert dict(zip(made.groups, made.sizes, strict=True)) == collections.Counter(expected.values())
    assert made.sizes == sorted(made.sizes, reverse=True)


def test_an_attribute_as_it_is_has_no_empty_group(small_data):
    old = read_manifest(small_data).prior("gender")
    made = from_attribute("gender", PreparedData(small_data), groups=None, min_size=1)
    assert (made.groups, made.sizes) == (old.groups[:2], old.sizes[:2])
    assert made.table.equals(pq.read_table(small_data / "priors/gender.parquet"))


def test_what_is_no_attribute_of_users_is_refused(small_data):
    for by, says in (
        ("genre", "no attribute 'genre' of users: did you mean 'gender'"),
        ("size", "valid: age, gender"),
    ):
        with pytest.raises(UserError, match=says):
            from_attribute(by, PreparedData(small_data), groups=None, min_size=1)
