"""A prepared data set is what a slow reading of the raw files gives, and is there whole or not at all."""

import collections
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_movielens import (
    GENRES,
    Rating,
    read_ratings,
    read_sequences,
    write_movielens,
    write_ratings,
)

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build import sequence_files
from torchrec_priors.preparation.build.expressions import steps
from torchrec_priors.preparation.engine.on_duckdb import DuckDB
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.manifest import read_manifest

HORIZON = 8
STARS = ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]


def _read(folder: Path, name: str) -> dict[str, list]:
    return pq.read_table(folder / name).to_pydict()


def _row_of(folder: Path) -> dict[int, int]:
    """Original film -> row id."""
    items = _read(folder, "items.parquet")
    return dict(zip(items["item_id"], items["item"], strict=True))


def _pairs(folder: Path, name: str, entity: str) -> list[tuple[int, int]]:
    table = _read(folder, f"priors/{name}.parquet")
    return list(zip(table[entity], table["group"], strict=True))


def _shas(folder: Path) -> dict[str, str]:
    return {info.path: info.sha256 for info in read_manifest(folder).files}


def _training(raw: Path, horizon: int) -> list[Rating]:
    return [
        rating
        for ratings in read_sequences(raw, horizon).values()
        for rating in ratings[: -2 * horizon]
    ]


def _genres(raw: Path) -> dict[int, set[str]]:
    """Film -> genres."""
    films = {}
    for line in (raw / "u.item").read_text(encoding="latin-1").splitlines():
        fields = line.split("|")
        films[int(fields[0])] = {
            genre for genre, flag in zip(GENRES, fields[5:], strict=True) if flag == "1"
        }
    return films


def _people(raw: Path) -> dict[int, dict[str, str]]:
    """User -> value of each attribute; ages in GroupLens' bands."""
    people = {}
    for line in (raw / "u.user").read_text(encoding="latin-1").splitlines():
        user, years, gender, occupation, _ = line.split("|")
        lowest = max(low for low in (0, 18, 25, 35, 45, 50, 56) if int(years) >= low)
        bands = {
            0: "under 18",
            18: "18-24",
            25: "25-34",
            35: "35-44",
            45: "45-49",
            50: "50-55",
            56: "56+",
        }
        people[int(user)] = {"age": bands[lowest], "gender": gender, "occupation": occupation}
    return people


def _groups(
    labels: dict[int, Iterable[str]], remainder: str
) -> tuple[list[str], list[int], dict[str, list[int]]]:
    """(names in the order of their numbers, sizes, members) of the groups that labels make."""
    members: dict[str, list[int]] = {}
    for entity, names in sorted(labels.items()):
        for name in names or [remainder]:
            members.setdefault(name, []).append(entity)
    order = sorted(members, key=lambda name: (-len(members[name]), min(members[name]), name))
    if remainder not in members:
        members[remainder] = []
        order.append(remainder)
    return order, [len(members[name]) for name in order], members


def _check_sequences(folder: Path, raw: Path, horizon: int) -> None:
    row_of, sequences, people = _row_of(folder), read_sequences(raw, horizon), _people(raw)
    found = pq.read_table(folder / "sequences").to_pydict()
    assert found["user_id"] == list(sequences)
    assert found["items"] == [
        [row_of[rating.film] for rating in ratings] for ratings in sequences.values()
    ]
    assert found["timestamps"] == [
        [1000 * rating.seconds for rating in ratings] for ratings in sequences.values()
    ]
    assert found["events"] == [
        [rating.stars - 1 for rating in ratings] for ratings in sequences.values()
    ]
    ages = read_manifest(folder).prior("age").groups
    assert [ages[group] for group in found["user_group"]] == [
        people[user]["age"] for user in sequences
    ]


def _check_counts(folder: Path, raw: Path, horizon: int) -> None:
    everything, kept = list(dict.fromkeys(read_ratings(raw))), read_sequences(raw, horizon)
    interactions = sum(map(len, kept.values()))
    repeated = len(read_ratings(raw)) - len(everything)
    in_time = sorted(enumerate(everything), key=lambda entry: (entry[1].user, entry[1].seconds))
    assert read_manifest(folder).counts == {
        "users": len(kept),
        "items": len(_genres(raw)),
        "interactions": interactions,
        "training_interactions": len(_training(raw, horizon)),
        "dropped": {
            "users of at most twice the horizon": len({rating.user for rating in everything})
            - len(kept),
            "their interactions": len(everything) - interactions,
            **({"duplicate interactions": repeated} if repeated else {}),
        },
        "repaired": {
            "interactions out of order in time": sum(
                one.user == two.user and line > next_line
                for (line, one), (next_line, two) in itertools.pairwise(in_time)
            )
        },
    }


def _check_items(folder: Path, raw: Path, horizon: int) -> None:
    items, films = _read(folder, "items.parquet"), _genres(raw)
    assert items["item"] == list(range(len(films)))
    assert sorted(items["item_id"]) == sorted(films)
    trained = collections.Counter(rating.film for rating in _training(raw, horizon))
    assert items["frequency"] == [trained[film] for film in items["item_id"]]
    assert items["title"] == [f"Café {film} (1997)" for film in items["item_id"]]


def _check_priors(folder: Path, raw: Path, horizon: int) -> None:
    manifest, row_of, kept, people = (
        read_manifest(folder),
        _row_of(folder),
        read_sequences(raw, horizon),
        _people(raw),
    )
    assert [(prior.name, prior.kind) for prior in manifest.priors] == [
        ("genre", "item"),
        ("rating", "event"),
        ("age", "user"),
        ("gender", "user"),
        ("occupation", "user"),
    ]

    names, sizes, members = _groups(_genres(raw), "no genre")
    assert (manifest.prior("genre").groups, manifest.prior("genre").sizes) == (names, sizes)
    expected = [(row_of[film], group) for group, name in enumerate(names) for film in members[name]]
    assert _pairs(folder, "genre", "item") == sorted(expected)

    for attribute in ("age", "gender", "occupation"):
        labels = {user: [people[user][attribute]] for user in kept}
        names, sizes, members = _groups(labels, f"no {attribute}")
        assert (manifest.prior(attribute).groups, manifest.prior(attribute).sizes) == (names, sizes)
        expected = [(user, group) for group, name in enumerate(names) for user in members[name]]
        assert _pairs(folder, attribute, "user_id") == sorted(expected)

    training = _training(raw, horizon)
    size = collections.Counter(rating.stars - 1 for rating in training)
    order = sorted(range(len(STARS)), key=lambda event: (-size[event], event))
    assert manifest.prior("rating").groups == [STARS[event] for event in order]
    assert manifest.prior("rating").sizes == [size[event] for event in order]
    assert _pairs(folder, "rating", "event") == [
        (event, order.index(event)) for event in range(len(STARS))
    ]
    eligible = {(row_of[rating.film], order.index(rating.stars - 1)) for rating in training}
    assert _pairs(folder, "rating.eligible", "item") == sorted(eligible)


CHECKS = (_check_counts, _check_items, _check_priors, _check_sequences)


@pytest.mark.parametrize("check", CHECKS)
def test_files_hold_what_a_slow_reading_of_the_raw_files_gives(check, small_data, small_raw):
    check(small_data, small_raw, HORIZON)


def test_the_small_data_set_has_the_cases_that_matter(small_data, small_raw):
    """Otherwise the test above proves little."""
    lengths = collections.Counter(rating.user for rating in read_ratings(small_raw))
    assert {2 * HORIZON - 1, 2 * HORIZON, 2 * HORIZON + 1} <= set(lengths.values())
    sequences = read_sequences(small_raw, HORIZON)
    assert any(
        a.seconds == b.seconds
        for ratings in sequences.values()
        for a, b in itertools.pairwise(ratings)
    )
    assert 0 in _read(small_data, "items.parquet")["frequency"]
    manifest = read_manifest(small_data)
    sizes = manifest.prior("genre").sizes
    assert len(set(sizes)) < len(sizes), "no tie of group sizes"
    assert manifest.prior("genre").sizes[manifest.prior("genre").groups.index("no genre")] > 0
    assert manifest.prior("gender").sizes[manifest.prior("gender").groups.index("no gender")] == 0


_ratings = st.builds(
    Rating, st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3)
)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.lists(_ratings, min_size=1, max_size=25), st.integers(1, 3), st.integers(0, 2**31 - 1))
def test_any_log_is_prepared_as_a_slow_reading_would(ratings, horizon, seed):
    """Repeated films, ties of time, users around the least length."""
    with tempfile.TemporaryDirectory() as place:
        raw, out = Path(place) / "raw", Path(place) / "prepared"
        write_movielens(raw, users=5, items=18, longest=18, unlabelled=1)
        write_ratings(raw, ratings)
        how = Settings("movielens", raw, horizon, seed)
        if read_sequences(raw, horizon):
            prepare(how, out)
            for check in CHECKS:
                check(out, raw, horizon)
        else:
            with pytest.raises(
                UserError, match=f"no user of .* more than {2 * horizon} interactions: .*--horizon"
            ):
                prepare(how, out)
            assert list(Path(place).iterdir()) == [raw]


@pytest.mark.slow
def test_sequences_in_many_files_and_row_groups_are_the_same(
    small_raw, small_data, tmp_path, monkeypatch
):
    monkeypatch.setattr(sequence_files, "USERS_A_FILE", 32)
    prepare(Settings("movielens", small_raw, HORIZON), tmp_path / "prepared")
    _check_sequences(tmp_path / "prepared", small_raw, HORIZON)
    parts = sorted((tmp_path / "prepared" / "sequences").iterdir())
    assert len(parts) > 1
    assert all(pq.read_metadata(part).num_row_groups > 1 for part in parts[:-1]), (
        "ranks could not share a file"
    )
    (alone,) = (small_data / "sequences").iterdir()
    assert pq.read_metadata(alone).num_row_groups > 1


def test_steps_are_in_order_of_user_and_position_whatever_order_rows_come_in(tmp_path):
    """An engine may hand over rows in any order."""
    random = np.random.default_rng(0)
    rows = [(user, position) for user in range(50) for position in range(user)]
    user, position = np.array(rows)[random.permutation(len(rows))].T
    kept = pa.table(
        {"user_id": user, "position": position, "item_id": user, "timestamp": 100 * user + position}
    )
    ids = pa.table({"item_id": range(50), "item": range(50, 100)})
    table = DuckDB(tmp_path).to_arrow(steps(ibis.memtable(kept), ibis.memtable(ids)))
    assert table["timestamps"].to_pylist() == [100 * user + position for user, position in rows]
    assert table["items"].to_pylist() == [50 + user for user, _ in rows]


@pytest.mark.slow
def test_row_ids_are_a_seeded_permutation(small_raw, small_data, tmp_path):
    for name, seed in (("again", 0), ("other", 1)):
        prepare(Settings("movielens", small_raw, HORIZON, seed), tmp_path / name)
    first, again, other = (
        _row_of(folder) for folder in (small_data, tmp_path / "again", tmp_path / "other")
    )
    assert first == again
    assert sorted(first.values()) == sorted(other.values()) == list(range(len(first)))
    assert first != other
    hashes = [
        read_manifest(folder).content_sha256
        for folder in (small_data, tmp_path / "again", tmp_path / "other")
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    assert _shas(small_data) == _shas(tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_contiguous_shards_hold_their_share_of_every_level_of_frequency(seed, small_raw, tmp_path):
    """A shard of s rows of n holds s * m / n of the m most frequent items, give or take 3, for every m."""
    prepare(Settings("movielens", small_raw, HORIZON, seed), tmp_path / "prepared")
    items = _read(tmp_path / "prepared", "items.parquet")
    by_frequency = np.lexsort((items["item_id"], -np.array(items["frequency"])))
    for ranks in (2, 3, 4, 7):
        shard = by_frequency // -(-len(by_frequency) // ranks)
        held = np.cumsum(shard[:, None] == np.arange(ranks), axis=0)  # [m, ranks]
        share = np.bincount(shard) / len(shard) * np.arange(1, len(shard) + 1)[:, None]
        assert np.abs(held - share).max() <= 3, f"{ranks} ranks"


@pytest.mark.slow
def test_shards_of_the_real_table_get_the_same_traffic(ml_raw, tmp_path):
    prepare(Settings("movielens", ml_raw), tmp_path / "prepared")
    frequency = np.array(_read(tmp_path / "prepared", "items.parquet")["frequency"])
    for ranks in (2, 3, 4, 7):
        block = -(-len(frequency) // ranks)
        traffic = np.array(
            [frequency[block * rank : block * (rank + 1)].sum() for rank in range(ranks)]
        )
        assert np.abs(traffic / traffic.mean() - 1).max() < 0.05, f"{ranks} ranks: {traffic}"


@pytest.mark.slow
def test_the_real_corpus_has_its_published_size(ml_raw, tmp_path):
    counts = prepare(Settings("movielens", ml_raw), tmp_path / "prepared").counts
    assert (counts["users"], counts["items"], counts["interactions"]) == (943, 1682, 100_000)
    assert set(counts["dropped"].values()) == {0}


def _with_other_films(raw: Path, folder: Path, chosen: slice) -> Path:
    """A copy in which every user's ratings `chosen` (in order of time) are of other films and other stars."""
    shutil.copytree(raw, folder)
    ratings, films = read_ratings(raw), sorted(_genres(raw))
    places: dict[int, list[int]] = {}
    for place, rating in enumerate(ratings):
        places.setdefault(rating.user, []).append(place)
    for own in places.values():
        own.sort(key=lambda place: ratings[place].seconds)
        if len(own) > 2 * HORIZON:
            for place in own[chosen]:
                old = ratings[place]
                film = films[(films.index(old.film) + 7) % len(films)]
                ratings[place] = Rating(old.user, film, old.stars % 5 + 1, old.seconds)
    write_ratings(folder, ratings)
    return folder


def _beside_sequences(folder: Path) -> dict[str, str]:
    return {
        path: sha
        for path, sha in _shas(folder).items()
        if not path.startswith(("sequences/", "held/"))
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [slice(-2 * HORIZON, -HORIZON), slice(-HORIZON, None)], ids=["validation", "test"]
)
def test_a_changed_held_out_interaction_changes_no_prior_and_no_frequency(
    part, small_raw, small_data, tmp_path
):
    prepare(
        Settings("movielens", _with_other_films(small_raw, tmp_path / "raw", part), HORIZON),
        tmp_path / "prepared",
    )
    assert _beside_sequences(tmp_path / "prepared") == _beside_sequences(small_data)
    assert read_manifest(tmp_path / "prepared").priors == read_manifest(small_data).priors
    assert _shas(tmp_path / "prepared") != _shas(small_data), "nothing was changed"


@pytest.mark.slow
def test_a_changed_training_interaction_changes_frequencies_and_event_prior(
    small_raw, small_data, tmp_path
):
    changed = _with_other_films(small_raw, tmp_path / "raw", slice(0, 1))
    prepare(Settings("movielens", changed, HORIZON), tmp_path / "prepared")
    before, after = _beside_sequences(small_data), _beside_sequences(tmp_path / "prepared")
    assert before["items.parquet"] != after["items.parquet"]
    assert before["priors/rating.eligible.parquet"] != after["priors/rating.eligible.parquet"]


@pytest.mark.slow
def test_the_optional_raw_files_may_be_absent(small_raw, small_data, tmp_path):
    shutil.copytree(
        small_raw, tmp_path / "raw", ignore=shutil.ignore_patterns("u.genre", "u.occupation")
    )
    prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "prepared")
    assert _shas(tmp_path / "prepared") == _shas(small_data)


def test_missing_raw_files_and_folders_are_named(small_raw, tmp_path):
    shutil.copytree(small_raw, tmp_path / "raw", ignore=shutil.ignore_patterns("u.item", "u.user"))
    with pytest.raises(UserError, match=r"--raw: .* lacks u\.item, u\.user"):
        prepare(Settings("movielens", tmp_path / "raw"), tmp_path / "prepared")
    with pytest.raises(UserError, match=r"--raw: there is no folder .*nowhere"):
        prepare(Settings("movielens", tmp_path / "nowhere"), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_a_horizon_below_one_is_refused(small_raw):
    with pytest.raises(UserError, match="--horizon must be at least 1, not 0"):
        Settings("movielens", small_raw, 0)


_NO_TORCH = """
import sys
from pathlib import Path
from torchrec_priors.preparation.prepare import Settings, prepare
prepare(Settings("movielens", Path(sys.argv[1]), 8), Path(sys.argv[2]))
loaded = {"torch", "torchrec", "fbgemm_gpu", "igraph", "leidenalg"} & set(sys.modules)
sys.exit(f"imported: {loaded}" if loaded else 0)
"""


@pytest.mark.slow
def test_preparing_imports_no_torch_and_no_igraph_where_no_communities_are_asked_for(
    small_raw, small_data, tmp_path
):
    command = [sys.executable, "-c", _NO_TORCH, str(small_raw), str(tmp_path / "prepared")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert _shas(tmp_path / "prepared") == _shas(small_data), (
        "another process makes another data set"
    )
