"""A damaged prepared data set is named by the file that is damaged; a whole one opens and verifies."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edited_manifest import edit

from torchrec_priors.errors import UserError
from torchrec_priors.prepared import manifest as manifests
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import SCHEMA_VERSION, hash_of, read_manifest, verify

PATHS = [
    "held/interactions.parquet",
    "held/labels/age.parquet",
    "held/labels/gender.parquet",
    "held/labels/occupation.parquet",
    "items.parquet",
    "priors/age.parquet",
    "priors/gender.parquet",
    "priors/genre.parquet",
    "priors/occupation.parquet",
    "priors/rating.eligible.parquet",
    "priors/rating.parquet",
    "sequences/part-00000.parquet",
]


@pytest.fixture
def prepared(small_data, tmp_path):
    """A copy of the small data set that a test may damage."""
    shutil.copytree(small_data, tmp_path / "prepared")
    return tmp_path / "prepared"


def _named(file: Path):
    """What the message must match: one line that names the file."""
    return rf"(?s)\A(?!.*\n).*{re.escape(str(file))}"


def test_a_whole_data_set_verifies_and_lists_all_its_files(small_data):
    verify(small_data)
    manifest = read_manifest(small_data)
    on_disk = [path.relative_to(small_data) for path in small_data.rglob("*") if path.is_file()]
    assert sorted(map(str, on_disk)) == sorted([*PATHS, manifests.FILE])
    assert sorted(info.path for info in manifest.files) == PATHS
    assert manifest.schema_version == SCHEMA_VERSION


def test_what_is_written_is_what_is_read(small_data, prepared):
    manifest = read_manifest(small_data)
    (prepared / manifests.FILE).unlink()
    manifest.write(prepared)
    assert read_manifest(prepared) == manifest
    assert [path.name for path in prepared.glob("manifest*")] == [manifests.FILE]


def test_earlier_states_are_written_where_there_are_any(small_data, prepared):
    before = (prepared / manifests.FILE).read_bytes()
    manifest = read_manifest(small_data)
    manifest.write(prepared)
    assert (prepared / manifests.FILE).read_bytes() == before, (
        "the file of a log that never grew has changed"
    )
    grown = replace(manifest, grown=[{"prepared_sha256": "0", "items": 7, "users": 3}])
    grown.write(prepared)
    assert read_manifest(prepared) == grown


def test_a_missing_folder_or_manifest_is_named(prepared, tmp_path):
    with pytest.raises(UserError, match=r"--data: there is no folder '.*nowhere'"):
        read_manifest(tmp_path / "nowhere")
    (tmp_path / "log.csv").touch()
    with pytest.raises(UserError, match=r"--data: '.*log\.csv' is a file, .* prepare it first"):
        read_manifest(tmp_path / "log.csv")
    (prepared / manifests.FILE).unlink()
    with pytest.raises(
        UserError,
        match=r"--data: '.*prepared' is not a prepared data set \(it has no manifest\.json\)",
    ):
        read_manifest(prepared)


@pytest.mark.parametrize("path", PATHS)
def test_a_missing_file_is_named(path, prepared):
    (prepared / path).unlink()
    with pytest.raises(UserError, match=_named(prepared / path) + " is missing"):
        read_manifest(prepared)


@pytest.mark.parametrize("path", PATHS)
def test_a_truncated_file_is_named(path, prepared):
    content = (prepared / path).read_bytes()
    (prepared / path).write_bytes(content[:-1])
    with pytest.raises(
        UserError,
        match=_named(prepared / path) + f" has {len(content) - 1} of {len(content)} bytes",
    ):
        read_manifest(prepared)


@pytest.mark.parametrize("path", PATHS)
def test_a_file_of_the_same_size_with_one_other_bit_does_not_verify(path, prepared):
    content = bytearray((prepared / path).read_bytes())
    content[len(content) // 2] ^= 1
    (prepared / path).write_bytes(content)
    read_manifest(prepared)  # which reads sizes alone
    with pytest.raises(UserError, match=_named(prepared / path) + " does not match its checksum"):
        verify(prepared)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, str(SCHEMA_VERSION), None])
def test_another_schema_version_is_refused(version, prepared):
    edit(prepared, schema_version=version)
    with pytest.raises(
        UserError, match=_named(prepared / manifests.FILE) + f" has version {version}"
    ):
        read_manifest(prepared)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b'{"version": 1}',
        b'{"name": "caf\xe9"}',
        b"\x00\xff\xfe",
    ],
)
def test_a_manifest_that_is_none_is_named(content, prepared):
    (prepared / manifests.FILE).write_bytes(content)
    with pytest.raises(UserError, match=_named(prepared / manifests.FILE)):
        read_manifest(prepared)


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": ...},
        {"colour": "red"},
        {"priors": [{"name": "genre"}]},
        {"priors": 3},
        {"files": [{"path": "a"}]},
    ],
    ids=str,
)
def test_a_manifest_of_other_fields_is_named(changes, prepared):
    edit(prepared, **changes)
    with pytest.raises(UserError, match=_named(prepared / manifests.FILE)):
        read_manifest(prepared)


def test_opening_and_reading_names_a_parquet_file_that_is_none(prepared):
    for path, read in (
        ("sequences/part-00000.parquet", lambda: PreparedData(prepared)),
        ("items.parquet", lambda: PreparedData(prepared).catalogue()),
        ("priors/genre.parquet", lambda: PreparedData(prepared).prior_pairs("genre", "item")),
    ):
        content = (prepared / path).read_bytes()
        (prepared / path).write_bytes(b"\0" * len(content))
        with pytest.raises(UserError, match=_named(prepared / path)):
            read()
        (prepared / path).write_bytes(content)


def test_counts_that_do_not_fit_the_files_are_refused(prepared):
    counts = read_manifest(prepared).counts
    edit(prepared, counts=counts | {"users": counts["users"] + 1})
    with pytest.raises(
        UserError, match=f"sequences.* {counts['users']} users instead of {counts['users'] + 1}"
    ):
        PreparedData(prepared)
    edit(prepared, counts=counts | {"items": counts["items"] + 1})
    with pytest.raises(
        UserError,
        match=rf"items\.parquet.* {counts['items']} rows instead of {counts['items'] + 1}",
    ):
        PreparedData(prepared).catalogue()
    edit(prepared, counts=counts | {"items": 1})
    data = PreparedData(prepared)
    with pytest.raises(
        UserError, match=r"sequences/part-00000\.parquet names an item outside the catalogue of 1"
    ):
        data.read_users(data.row_groups[0])


def test_an_unknown_prior_names_the_nearest(small_data):
    manifest = read_manifest(small_data)
    assert manifest.prior("genre").kind == "item"
    with pytest.raises(
        UserError, match=r"data set 'movielens' has no prior 'genres': did you mean 'genre'\?"
    ):
        manifest.prior("genres")


def test_a_changed_manifest_is_named_and_one_without_a_checksum_is_read(prepared, caplog):
    text = (prepared / manifests.FILE).read_text(encoding="utf8")
    users = read_manifest(prepared).counts["users"]
    (prepared / manifests.FILE).write_text(
        text.replace(f'"users": {users},', f'"users": {users + 1},')
    )
    with pytest.raises(
        UserError, match=_named(prepared / manifests.FILE) + "' is damaged .*: prepare again"
    ):
        read_manifest(prepared)
    values = json.loads(text)
    del values["sha256"]
    for info in values["files"]:
        del info["footer_sha256"]
    (prepared / manifests.FILE).write_text(json.dumps(values))
    with caplog.at_level("INFO", logger="torchrec_priors"):
        data = PreparedData(prepared)
    assert caplog.text.count("was written by an earlier version") == 1
    assert data.manifest.prepared_sha256 == hash_of(data.manifest.files)
    assert data.catalogue().num_rows == data.items
    (prepared / "items.parquet").write_bytes(
        bytes(1) + (prepared / "items.parquet").read_bytes()[1:]
    )
    with pytest.raises(
        UserError, match=_named(prepared / "items.parquet") + r" cannot be read \(it does not match"
    ):
        PreparedData(prepared).catalogue()


@pytest.mark.parametrize(
    "path", ["items.parquet", "priors/genre.parquet", "sequences/part-00000.parquet"]
)
def test_no_bit_of_a_file_changes_what_is_read(path, prepared):
    content = (prepared / path).read_bytes()
    before = _all_of(prepared)
    random = np.random.default_rng(0)
    refused = []
    for place in [
        *random.integers(0, len(content), 30),
        *range(len(content) - 200, len(content), 20),
    ]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        (prepared / path).write_bytes(changed)
        try:
            found = _all_of(prepared)
        except UserError as error:
            refused.append(str(error))
        else:
            assert found == before
    assert len(refused) > 30
    assert all(path in message for message in refused)


def _all_of(folder: Path):
    data = PreparedData(folder)
    read = [data.read_users(group, ["timestamps", "events"]) for group in data.row_groups]
    histories = [
        (users.items.tolist(), {name: of.tolist() for name, of in users.columns.items()})
        for users in read
    ]
    pairs = [part.tolist() for part in data.prior_pairs("genre", "item")]
    return (
        data.catalogue().to_pydict(),
        histories,
        data.user_texts().to_pylist(),
        data.lengths.tolist(),
        pairs,
    )
