"""A damaged prepared data set is named by the file that is damaged; a whole one opens and verifies."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from torchrec_priors.data import manifest as manifests
from torchrec_priors.data.manifest import SCHEMA_VERSION, read_manifest, verify
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.errors import UserError

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


def _edit(folder: Path, **changes) -> None:
    file = folder / manifests.FILE
    values = json.loads(file.read_text(encoding="utf8")) | changes
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}), encoding="utf8")


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
    assert (prepared / manifests.FILE).read_bytes() == before, "the file of a log that never grew has changed"
    grown = replace(manifest, grown=[{"prepared_sha256": "0", "items": 7, "users": 3}])
    grown.write(prepared)
    assert read_manifest(prepared) == grown


def test_a_missing_folder_or_manifest_is_named(prepared, tmp_path):
    with pytest.raises(UserError, match=r"--data: there is no folder '.*nowhere'"):
        read_manifest(tmp_path / "nowhere")
    (prepared / manifests.FILE).unlink()
    with pytest.raises(UserError, match=r"--data: '.*prepared' is no prepared data set \(it has no manifest\.json\)"):
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
    with pytest.raises(UserError, match=_named(prepared / path) + f" has {len(content) - 1} bytes of {len(content)}"):
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
    _edit(prepared, schema_version=version)
    with pytest.raises(UserError, match=_named(prepared / manifests.FILE) + f" is of version {version}"):
        read_manifest(prepared)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"3", b'"text"', b'{"version": 1}', b'{"name": "caf\xe9"}', b"\x00\xff\xfe"],
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
    _edit(prepared, **changes)
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
    _edit(prepared, counts=counts | {"users": counts["users"] + 1})
    with pytest.raises(UserError, match=f"sequences.* {counts['users']} users of {counts['users'] + 1}"):
        PreparedData(prepared)
    _edit(prepared, counts=counts | {"items": counts["items"] + 1})
    with pytest.raises(UserError, match=rf"items\.parquet.* {counts['items']} rows of {counts['items'] + 1}"):
        PreparedData(prepared).catalogue()
    _edit(prepared, counts=counts | {"items": 1})
    data = PreparedData(prepared)
    with pytest.raises(UserError, match=r"sequences/part-00000\.parquet names an item outside the catalogue of 1"):
        data.read_users(data.row_groups[0])


def test_an_unknown_prior_names_the_nearest(small_data):
    manifest = read_manifest(small_data)
    assert manifest.prior("genre").kind == "item"
    with pytest.raises(UserError, match=r"data set 'movielens' has no prior 'genres': did you mean 'genre'\?"):
        manifest.prior("genres")
