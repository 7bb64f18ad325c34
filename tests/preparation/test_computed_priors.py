"""Communities of a prepared data set: of training interactions alone, whole, and those that were planted."""

import collections
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_movielens import Rating, read_sequences, write_movielens, write_ratings
from test_prepare import HORIZON, _beside_sequences, _shas, _with_other_films

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.on_duckdb import DuckDB
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.priors.communities import prior as computing
from torchrec_priors.preparation.priors.communities.graph import Graph
from torchrec_priors.preparation.priors.communities.names import named_by_category
from torchrec_priors.preparation.priors.communities.partition import data_of_groups
from torchrec_priors.preparation.priors.communities.prior import communities
from torchrec_priors.preparation.priors.communities.quality import normalised_mutual_information
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import read_manifest, verify
from torchrec_priors.synthetic.files import generate

CORPUS = """
from dataclasses import replace
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior
from torchrec_priors.preparation.corpus import find_corpus

def load(raw, bad_rows):
    priors = [GraphPrior("community", last=9), UserPrior("crowd", neighbours=5, users_per_item=10)]
    return replace(find_corpus("movielens").load(raw, bad_rows), computed_priors=priors)
"""
GRAPH, USER = GraphPrior("community", last=9), UserPrior("crowd", neighbours=5, users_per_item=10)


def _make(prior, folder):
    return communities(prior, PreparedData(folder))


def _prepared(raw, folder, seed=0):
    """With both priors, asked for by the corpus."""
    (folder.parent / "communal.py").write_text(CORPUS)
    return prepare(Settings(str(folder.parent / "communal.py"), raw, HORIZON, seed), folder)


@pytest.fixture(scope="module")
def data(small_raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("communal") / "prepared"
    _prepared(small_raw, folder)
    return folder


def test_a_corpus_may_ask_for_communities_and_gets_what_the_app_gives(data, small_data):
    verify(data)
    manifest = read_manifest(data)
    assert [(prior.name, prior.kind) for prior in manifest.priors[-2:]] == [
        ("community", "graph"),
        ("crowd", "user"),
    ]
    for prior in (GRAPH, USER):
        made, info = _make(prior, small_data), manifest.prior(prior.name)
        assert (made.groups, made.sizes, made.made_by) == (info.groups, info.sizes, info.made_by)
        assert made.table.equals(pq.read_table(data / info.path))
    assert (
        manifest.prepared_sha256
        == read_manifest(small_data).content_sha256
        != manifest.content_sha256
    )


def test_every_item_and_every_user_is_in_exactly_one_group(data, small_raw):
    for name, column, everyone in (
        ("community", "item", range(read_manifest(data).counts["items"])),
        ("crowd", "user_id", list(read_sequences(small_raw, HORIZON))),
    ):
        table, info = (
            pq.read_table(data / f"priors/{name}.parquet"),
            read_manifest(data).prior(name),
        )
        assert table[column].to_pylist() == list(everyone)
        sizes = collections.Counter(table["group"].to_pylist())
        assert [sizes[group] for group in range(len(info.groups))] == info.sizes
        assert sorted(info.sizes, reverse=True) == info.sizes
        assert len(set(info.groups)) == len(info.groups) > 2


def _shuffled(raw: Path, folder: Path) -> Path:
    """A copy in which every user's held-out ratings change their order."""
    shutil.copytree(raw, folder)
    random, ratings = np.random.default_rng(0), []
    for own in read_sequences(raw, HORIZON).values():
        training, held_out = own[: -2 * HORIZON], own[-2 * HORIZON :]
        order = random.permutation(len(held_out))
        moved = [
            (held_out[i].film, held_out[i].stars, at.seconds)
            for i, at in zip(order, held_out, strict=True)
        ]
        ratings += [*training, *(Rating(own[0].user, *rating) for rating in moved)]
    write_ratings(folder, ratings)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("change", ["validation", "test", "order"])
def test_held_out_interactions_change_no_byte_of_any_prior(change, small_raw, data, tmp_path):
    if change == "order":
        raw = _shuffled(small_raw, tmp_path / "raw")
    else:
        part = slice(-2 * HORIZON, -HORIZON) if change == "validation" else slice(-HORIZON, None)
        raw = _with_other_films(small_raw, tmp_path / "raw", part)
    _prepared(raw, tmp_path / "prepared")
    before, after = _beside_sequences(data), _beside_sequences(tmp_path / "prepared")
    assert {
        "priors/community.parquet",
        "priors/crowd.parquet",
        "priors/rating.eligible.parquet",
    } <= set(after)
    assert after == before
    assert read_manifest(tmp_path / "prepared").priors == read_manifest(data).priors
    assert _shas(tmp_path / "prepared") != _shas(data), "nothing was changed"


def test_training_interactions_change_both(small_raw, data, tmp_path):
    _prepared(
        _with_other_films(small_raw, tmp_path / "raw", slice(-2 * HORIZON - 3, -2 * HORIZON)),
        tmp_path / "out",
    )
    for name in ("community", "crowd"):
        assert (
            _shas(tmp_path / "out")[f"priors/{name}.parquet"]
            != _shas(data)[f"priors/{name}.parquet"]
        )


def _by_original_id(folder, name):
    items = pq.read_table(folder / "items.parquet")
    group = dict(
        zip(*pq.read_table(folder / f"priors/{name}.parquet").to_pydict().values(), strict=True)
    )
    return {
        item_id: group[item]
        for item, item_id in zip(*items.select([0, 1]).to_pydict().values(), strict=True)
    }


def test_groups_do_not_depend_on_how_rows_are_numbered(small_raw, data, tmp_path):
    _prepared(small_raw, tmp_path / "prepared", seed=5)
    assert _shas(tmp_path / "prepared")["items.parquet"] != _shas(data)["items.parquet"]
    assert _by_original_id(tmp_path / "prepared", "community") == _by_original_id(data, "community")
    assert (
        _shas(tmp_path / "prepared")["priors/crowd.parquet"] == _shas(data)["priors/crowd.parquet"]
    )
    assert read_manifest(tmp_path / "prepared").priors == read_manifest(data).priors


@pytest.mark.slow
def test_one_seed_gives_one_result_and_settings_matter(small_data):
    first, again = _make(GRAPH, small_data), _make(GRAPH, small_data)
    assert first == again
    for other in (
        GraphPrior("community", last=9, seed=1),
        GraphPrior("community", last=9, weights="cosine"),
        GraphPrior("community", last=9, weights="shared"),
        GraphPrior("community", last=9, weights="equal"),
        GraphPrior("community", last=9, join=False),
        GraphPrior("community", last=9, neighbours=2),
        GraphPrior("community", last=9, resolution=3.0),
        GraphPrior("community", last=9, min_size=25),
        GraphPrior("community", last=4),
    ):
        assert not _make(other, small_data).table.equals(first.table), other


def test_what_was_done_is_said(small_data):
    made = _make(GraphPrior("community", groups=7), small_data)
    said = made.messages
    assert [line.split(":")[0] for line in said] == ["graph", "communities", "remainder", "quality"]
    assert "of 150 items, from the last 50 training interactions of each user" in said[0]
    assert re.search(r"weights: pmi \(left out [\d,]+ pairs that occur together no more", said[0])
    assert re.fullmatch(
        r"communities: \d+ at resolution \S+, merged into 6 with at least 10 items each", said[1]
    )
    assert len(made.groups) == 7
    rest = made.sizes[made.groups.index("others")]
    assert said[2].startswith(f"remainder: {rest} items (")
    assert sum(int(count) for count in re.findall(r"[(,] ?(\d+) ", said[2])) == rest
    assert re.search(r"modularity [.\d]+ \(weights: pmi; the highest .* tried: [.\d]+\)", said[3])
    assert "agreement with 'genre': NMI 0." in said[3]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "--groups 70: there are only .* of at least 10 items .*: lower --min-size"),
        ({"resolution": 1.0}, "--groups 70: there are only .*: raise --resolution or leave it out"),
        ({"join": False}, "--groups 70: no resolution tried gives this number; "),
    ],
)
def test_why_a_number_of_groups_is_not_reached_is_said(settings, says, small_data):
    made = _make(GraphPrior("community", groups=70, **settings), small_data)
    assert len(made.groups) < 70
    assert re.match(says, made.messages[-1])


def test_a_log_in_which_nothing_is_shared_is_refused(small_raw, tmp_path):
    shutil.copytree(small_raw, tmp_path / "raw")
    films = [Rating(user, user, 3, second) for user in range(1, 9) for second in range(20)]
    write_ratings(tmp_path / "raw", films)
    prepare(Settings("movielens", tmp_path / "raw", HORIZON), tmp_path / "prepared")
    with pytest.raises(UserError, match="no two items share anything in training"):
        _make(GRAPH, tmp_path / "prepared")
    assert [
        path.name for path in (tmp_path / "prepared").iterdir() if path.name.startswith(".")
    ] == []


@pytest.mark.parametrize("name", ["items.parquet", "sequences/part-00000.parquet"])
def test_a_file_that_is_no_parquet_is_the_users_affair(name, small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")
    file, data = tmp_path / "data" / name, PreparedData(tmp_path / "data")
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(
        UserError, match=r"(data'|items\.parquet) cannot be read .*: prepare the data set again"
    ):
        communities(GRAPH, data)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"last": 0}, "--last must be at least 1, not 0"),
        ({"neighbours": 0}, "--neighbours must be"),
        ({"min_size": 0}, "--min-size must be"),
        ({"groups": 1}, "--groups must be at least 2"),
        ({"groups": 3, "resolution": 1.0, "join": False}, "--groups and --resolution"),
        ({"weights": "tfidf"}, "--weights must be one of shared, cosine, pmi, equal, not 'tfidf'"),
        ({"resolution": 0.0}, "--resolution must be a positive number"),
        ({"resolution": float("nan")}, "--resolution must be a positive number"),
        ({"seed": -1}, "--seed must be in"),
        ({"users_per_item": 1}, "--users-per-item must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(changes, says):
    with pytest.raises(UserError, match=says):
        UserPrior("crowd", **changes)


@pytest.mark.parametrize(
    ("priors", "says"),
    [
        ([GraphPrior("genre")], "defines a prior twice: .*genre, genre"),
        (["community"], "computed_priors must be a list of GraphPrior or UserPrior"),
        (GraphPrior("community"), "computed_priors must be a list"),
    ],
)
def test_a_corpus_that_asks_wrongly_is_refused(priors, says):
    with pytest.raises(UserError, match=says):
        Corpus(
            "shop",
            None,
            None,
            "genre",
            2,
            item_priors=[Labels("genre", None, "no genre")],
            computed_priors=priors,
        )


def test_communities_are_named_by_what_is_frequent_there_and_not_elsewhere():
    """Drama is everywhere; war is all there is of community 1 beside it."""
    community = np.repeat([0, 0, 1, 1, 2, -1], [30, 30, 30, 20, 10, 40])
    category = np.repeat([0, 1, 0, 2, 0, 0], [30, 30, 30, 20, 10, 40])
    names = named_by_category(community, category, ["Drama", "Comedy", "War"])
    assert names == {0: "Comedy", 1: "War", 2: "Drama"}
    assert named_by_category(np.array([0, 1]), np.array([0, 0]), ["Drama"]) == {0: "", 1: ""}


def _adjusted_rand(one, two):
    """Hubert and Arabie's index of two labellings."""
    table = np.zeros((max(one) + 1, max(two) + 1))
    np.add.at(table, (one, two), 1)

    def together(counts):
        return (counts * (counts - 1) / 2).sum()

    both, first, second = together(table), together(table.sum(1)), together(table.sum(0))
    expected = first * second / together(np.array(len(one)))
    return (both - expected) / ((first + second) / 2 - expected)


def test_the_index_that_follows_is_right():
    assert _adjusted_rand([0, 0, 1, 1], [1, 1, 0, 0]) == 1
    assert _adjusted_rand([0, 0, 1, 2], [0, 0, 1, 1]) == pytest.approx(4 / 7)
    random = np.random.default_rng(0)
    assert abs(_adjusted_rand(random.integers(0, 9, 3000), random.integers(0, 9, 3000))) < 0.01


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """(prepared folder, level-1 category of each item row, leaf of each item row); leaves are what is planted."""
    folder = tmp_path_factory.mktemp("market")
    generate(folder / "raw", 120_000, 0)
    prepare(Settings("marketplace", folder / "raw"), folder / "data")
    leaves = sorted(
        set(pq.read_table(folder / "raw/truth/interests.parquet")["category3"].to_pylist())
    )
    raw = pq.read_table(folder / "raw/items.parquet").to_pydict()
    leaf_of = dict(zip(raw["item_id"], raw["category3"], strict=True))
    leaf = [
        leaf_of[item_id]
        for item_id in pq.read_table(folder / "data/items.parquet")["item_id"].to_pylist()
    ]
    tops = sorted({name.split(" > ")[0] for name in leaves})
    assert set(leaf) == set(leaves)
    return (
        folder / "data",
        [tops.index(name.split(" > ")[0]) for name in leaf],
        [leaves.index(name) for name in leaf],
    )


def test_planted_interests_are_found_as_the_leaves_that_they_are(market):
    folder, _, leaf = market
    made = _make(GraphPrior("community", neighbours=20, groups=max(leaf) + 1), folder)
    assert len(made.groups) == max(leaf) + 1 == 33
    assert _adjusted_rand(made.table["group"].to_pylist(), leaf) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "least"), [("pmi", 0.85), ("cosine", 0.9), ("shared", 0.9)])
def test_any_weights_find_the_tastes_from_which_interests_are_drawn(market, weights, least):
    """Most interests of a user lie within two level-1 categories."""
    folder, top, _ = market
    made = _make(GraphPrior("community", weights=weights), folder)
    assert len(made.groups) in (10, 11)
    assert _adjusted_rand(made.table["group"].to_pylist(), top) >= least
    assert made.made_by["category_nmi"] >= 0.9


def test_communities_of_tastes_have_different_names(market):
    folder, _, _ = market
    made = _make(GraphPrior("community", weights="shared"), folder)
    assert len(made.groups) == 10
    named = {name.split(": ")[1] for name in made.groups}
    assert len(named) == 10, "every community is named by another category"


@pytest.mark.slow
def test_groups_on_the_real_log(ml_raw, tmp_path):
    prepare(Settings("movielens", ml_raw), tmp_path / "data")
    films = _make(GraphPrior("community", groups=11), tmp_path / "data")
    people = _make(UserPrior("crowd", groups=9), tmp_path / "data")
    assert (len(films.groups), len(people.groups)) == (11, 9)
    assert (sum(films.sizes), sum(people.sizes)) == (1682, 943)
    sizes = dict(zip(films.groups + people.groups, films.sizes + people.sizes, strict=True))
    assert min(size for name, size in sizes.items() if not name.startswith("other")) >= 10
    assert films.sizes[0] < 1682 / 2
    assert people.sizes[0] < 943 / 2


_NO_TORCH = """
import sys
from torchrec_priors.apps.prior import main
try:
    main()
finally:
    loaded = {"torch", "torchrec", "fbgemm_gpu"} & set(sys.modules)
    assert not loaded, loaded
"""


@pytest.mark.slow
def test_the_app_imports_no_torch_and_gives_the_same(data, small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")
    options = ["graph", "--data", tmp_path / "data", "--name", "community", "--last", "9"]
    command = [sys.executable, "-c", _NO_TORCH, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "prior community (graph): " in done.stdout
    assert (
        _shas(tmp_path / "data")["priors/community.parquet"]
        == _shas(data)["priors/community.parquet"]
    )


@pytest.fixture(scope="module")
def hubs(tmp_path_factory):
    """(prepared folder, taste of each film); six tastes of 20 films, and 6 films that nearly everyone rates."""
    folder = tmp_path_factory.mktemp("hubs")
    write_movielens(folder / "raw", users=300, items=126, longest=50)
    random = np.random.default_rng(0)
    ratings = []
    for user in range(1, 301):
        own = 1 + 20 * (user % 6) + random.choice(20, 9, replace=False)
        hubs = 121 + random.choice(6, 5, replace=False)
        other = 1 + random.choice(120, 3, replace=False)
        films = random.permutation(np.unique(np.concatenate([own, hubs, other])))
        ratings += [Rating(user, int(film), 3, second) for second, film in enumerate(films)]
    write_ratings(folder / "raw", ratings)
    prepare(Settings("movielens", folder / "raw", 1), folder / "data")
    return folder / "data"


@pytest.mark.parametrize("weights", ["pmi", "cosine"])
def test_popular_items_do_not_swallow_the_rest(hubs, weights):
    """Each group has the films of one taste, and no group has most of the interactions."""
    made = _make(GraphPrior("community", groups=6, weights=weights), hubs)
    assert len(made.groups) == 6
    group = dict(zip(*made.table.to_pydict().values(), strict=True))
    ids = pq.read_table(hubs / "items.parquet", columns=["item", "item_id"]).to_pydict()
    group_of = {film: group[item] for item, film in zip(*ids.values(), strict=True)}
    tastes = [(film - 1) // 20 for film in range(1, 121)]
    assert _adjusted_rand([group_of[film] for film in range(1, 121)], tastes) >= 0.9
    assert made.made_by["largest_share"] < 0.6


def test_the_number_of_threads_does_not_matter(hubs, monkeypatch):
    priors = (GraphPrior("c"), UserPrior("u", groups=4))
    many = [_make(prior, hubs) for prior in priors]

    class OneThread(DuckDB):
        def __init__(self, *args):
            super().__init__(*args)
            self.connection.raw_sql("SET threads = 1")

    monkeypatch.setattr(computing, "DuckDB", OneThread)
    assert [_make(prior, hubs) for prior in priors] == many


def test_the_quality_is_what_it_is_defined_as():
    """Two groups with an edge in each and one between them; data 1, 2, 3, 4."""
    ends = np.array([[0, 2, 1], [1, 3, 2]])
    graph = Graph(4, *ends, np.ones(3), np.array([1.0, 2.0, 3.0, 4.0]))
    group = np.array([0, 0, 1, 1])
    assert data_of_groups(graph, group).tolist() == [0.3, 0.7]
    assert graph.modularity(group) == pytest.approx(2 / 3 - 2 * (3 / 6) ** 2)
    assert normalised_mutual_information(group, group + 7) == pytest.approx(1)
    one, two = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert normalised_mutual_information(one, two) == pytest.approx(0, abs=1e-12)
    two = np.array([0, 0, 0, 1])
    both = 0.5 * np.log(4 / 3) + 0.25 * np.log(2 / 3) + 0.25 * np.log(2)
    entropies = np.log(2) - 0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    assert normalised_mutual_information(one, two) == pytest.approx(2 * both / entropies)
