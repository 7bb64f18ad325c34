"""A data set prepared into a store is the one prepared here, whole there or not at all."""

import shutil

import pytest
from stores import Pretended, fill, fresh

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.into_a_store import prepare_there
from torchrec_priors.preparation.prepare import Settings
from torchrec_priors.preparation.priors.add_prior import add_prior_there
from torchrec_priors.preparation.priors.mapping import from_mapping
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import FILE, read_manifest
from torchrec_priors.remote.cache import default_cache
from torchrec_priors.remote.mirror import mirror
from torchrec_priors.remote.uri import Uri

RAW, OUT = Uri("pretended://bucket/raw"), Uri("pretended://bucket/prepared/shop")


@pytest.fixture
def store(monkeypatch, tmp_path):
    return fresh(monkeypatch, tmp_path / "cache")


@pytest.fixture
def settings(small_raw):
    return Settings("movielens", small_raw, 8)


def _hashes(manifest):
    return manifest.content_sha256, manifest.settings["raw_sha256"]


def _puts():
    return sum(count for (call, _), count in Pretended.calls.items() if call == "put")


def test_from_a_store_into_a_store(store, small_raw, small_data):
    fill(small_raw, RAW)
    said = prepare_there(Settings("movielens", mirror(RAW, "--raw"), 8), OUT)
    there, here = PreparedData(str(OUT)), read_manifest(small_data)
    assert _hashes(there.manifest) == _hashes(here)
    assert said.startswith("movielens: 77 users, 150 items")
    assert "times: 1997" in said
    assert len(store.find("/bucket/prepared", detail=False)) == len(here.files) + 1
    assert list((default_cache().folder / "out").iterdir()) == []
    Pretended.calls.clear()
    there.catalogue()
    assert there.lengths.sum()
    assert Pretended.calls == {}  # what was made here need not come back


def test_given_again_it_does_nothing(store, settings):
    prepare_there(settings, OUT)
    Pretended.calls.clear()
    reports = []
    said = prepare_there(settings, OUT, report=reports.append)
    assert reports == [f"{OUT} already holds this data set"]
    assert said.startswith("movielens: 77 users")
    assert Pretended.calls == {("cat", FILE): 1}


def test_other_settings_need_overwrite(store, settings, small_raw):
    prepare_there(settings, OUT)
    other = Settings("movielens", small_raw, 4)
    with pytest.raises(
        UserError, match=r"--out: 'pretended://.*' holds a data set with other settings"
    ):
        prepare_there(other, OUT)
    prepare_there(other, OUT, overwrite=True)
    there = PreparedData(str(OUT))
    assert there.manifest.horizon == 4
    assert there.catalogue().num_rows == there.items


def test_something_else_is_left_alone(store, settings):
    store.pipe_file(f"{OUT}/notes.txt", b"mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds something that is not a prepared data set"):
            prepare_there(settings, OUT, overwrite=overwrite)
    assert store.cat_file(f"{OUT}/notes.txt") == b"mine"


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_while_it_uploads_and_given_again(
    store, settings, small_raw, small_data, monkeypatch, overwrite
):
    """Between two calls the store holds the old data set, or none; every file goes there once."""
    if overwrite:
        prepare_there(Settings("movielens", small_raw, 4), OUT)
        Pretended.calls.clear()
    left = [3]

    def die(call, path, content):
        if call in ("put", "rm"):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        return content

    monkeypatch.setattr(Pretended, "trouble", die)
    kills = 0
    while True:
        try:
            prepare_there(settings, OUT, overwrite=overwrite)
            break
        except KeyboardInterrupt:
            kills += 1
            left[0] = 3
            if store.exists(f"{OUT}/{FILE}"):
                assert PreparedData(str(OUT)).manifest.horizon == 4
    files = len(read_manifest(small_data).files)
    assert kills == (files + overwrite) // 3
    assert _puts() == files + 1 + kills
    assert (
        PreparedData(str(OUT)).manifest.content_sha256 == read_manifest(small_data).content_sha256
    )


def test_what_http_cannot(settings):
    pytest.importorskip("aiohttp", reason="the extra `http` is not installed")
    with pytest.raises(UserError, match="--out: 'https://host/shop': https can only be read"):
        prepare_there(settings, Uri("https://host/shop"))


@pytest.fixture
def moods(tmp_path):
    file = tmp_path / "moods.csv"
    file.write_text("item_id,label\n1,calm\n2,loud\n")
    return file


def test_a_prior_is_added_there(store, small_data, moods):
    fill(small_data, OUT)
    data = PreparedData(str(OUT))
    grouping = from_mapping("mood", "item_id", moods, data)
    made = add_prior_there(OUT, "mood", grouping, data.manifest)
    there = PreparedData(str(OUT))
    assert there.manifest == made
    assert there.manifest.prepared_sha256 == data.manifest.prepared_sha256
    assert len(there.prior_pairs("mood", "item")[0]) == there.items
    with pytest.raises(UserError, match="prior 'mood' already exists"):
        add_prior_there(OUT, "mood", grouping, data.manifest)


@pytest.mark.parametrize("survived", range(4))
def test_a_prior_whose_replacement_is_killed(store, small_data, moods, monkeypatch, survived):
    """It is the old one, none, or the new one; never a manifest whose file is another."""
    fill(small_data, OUT)
    data = PreparedData(str(OUT))
    add_prior_there(OUT, "mood", from_mapping("mood", "item_id", moods, data), data.manifest)
    moods.write_text("item_id,label\n1,calm\n2,loud\n3,loud\n")
    left = [survived]

    def die(call, path, content):
        if call == "put":
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        return content

    monkeypatch.setattr(Pretended, "trouble", die)
    grouping = from_mapping("mood", "item_id", moods, data)
    try:
        add_prior_there(OUT, "mood", grouping, data.manifest, overwrite=True)
    except KeyboardInterrupt:
        assert survived < 3
    shutil.rmtree(default_cache().folder / "files")
    (default_cache().folder / "files").mkdir()
    there = PreparedData(str(OUT))
    sizes = {prior.name: prior.sizes for prior in there.manifest.priors}.get("mood")
    assert sizes == [[148, 1, 1], None, None, [147, 2, 1]][survived]
    for info in there.manifest.files:
        assert there.file(info.path).stat().st_size == info.bytes
