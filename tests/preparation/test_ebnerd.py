"""EB-NeRD: its made-up files, and the corpus against a recomputation in plain Python."""

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_log import in_time, items, labels, sequences

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.manifest import read_manifest
from torchrec_priors.synthetic.articles import SCHEMA
from torchrec_priors.synthetic.ebnerd import BEHAVIOURS_SCHEMA, HISTORY_SCHEMA, generate

LEAST = 100
FAST = ("communities=0", "crowds=0")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Made-up files; tests must not change them."""
    folder = tmp_path_factory.mktemp("ebnerd") / "raw"
    generate(folder, 12_000, 5)
    return folder


@pytest.fixture
def tiny(tmp_path):
    """A small log of a test's own, to change."""
    generate(tmp_path / "raw", 1_000, 5)
    return tmp_path / "raw"


def _rows(raw, name):
    return [
        (split, row)
        for split in ("train", "validation")
        for row in pq.read_table(raw / split / name).to_pylist()
    ]


def _ms(time):
    time = time.replace(tzinfo=UTC)
    return int(time.timestamp()) * 1000 + time.microsecond // 1000


def _clicks(raw):
    """(user, article, ms, None): what the histories tell, once, then clicks that come later; in raw order."""
    told, last = {}, {}
    for _, row in _rows(raw, "history.parquet"):
        for article, time in zip(
            row["article_id_fixed"], row["impression_time_fixed"], strict=True
        ):
            told.setdefault((row["user_id"], article, _ms(time), None))
            last[row["user_id"]] = max(last.get(row["user_id"], 0), _ms(time))
    later = [
        (row["user_id"], article, _ms(row["impression_time"]), None)
        for _, row in _rows(raw, "behaviors.parquet")
        for article in row["article_ids_clicked"]
        if _ms(row["impression_time"]) > last.get(row["user_id"], -1)
    ]
    return [*told, *later]


def test_the_files_are_as_published(raw):
    assert pq.read_schema(raw / "articles.parquet").equals(SCHEMA)
    start = datetime(2023, 4, 27, 7)
    articles = set(pq.read_table(raw / "articles.parquet")["article_id"].to_pylist())
    for week, split in ((3, "train"), (4, "validation")):
        for name, schema in (("history", HISTORY_SCHEMA), ("behaviors", BEHAVIOURS_SCHEMA)):
            assert pq.read_schema(raw / split / f"{name}.parquet").equals(schema)
        begins = start + timedelta(weeks=week)
        for row in pq.read_table(raw / split / "history.parquet").to_pylist():
            times = row["impression_time_fixed"]
            assert begins - timedelta(weeks=3) <= min(times) <= max(times) < begins
            assert times == sorted(times)
            assert len(times) == len(row["article_id_fixed"]) == len(row["read_time_fixed"])
        for row in pq.read_table(raw / split / "behaviors.parquet").to_pylist():
            assert begins <= row["impression_time"] < begins + timedelta(weeks=1)
            assert set(row["article_ids_clicked"]) <= set(row["article_ids_inview"]) <= articles
            assert len(row["article_ids_inview"]) >= 5
    shown = [row for _, row in _rows(raw, "behaviors.parquet")]
    assert len({row["impression_id"] for row in shown}) == len(shown)
    assert {len(row["article_ids_clicked"]) for row in shown} == {1, 2}
    assert any(row["age"] is None for row in shown)
    assert any(row["article_id"] is None for row in shown)


def test_clicks_follow_from_rows_and_seed_alone(raw, tmp_path):
    clicks = _clicks(raw)
    assert len(clicks) == len(set(clicks)) == 12_000
    generate(tmp_path / "again", 12_000, 5, users_at_once=7)
    assert sorted(_clicks(tmp_path / "again")) == sorted(clicks)
    generate(tmp_path / "other", 12_000, 6)
    assert sorted(_clicks(tmp_path / "other")) != sorted(clicks)


@pytest.mark.slow
@pytest.mark.parametrize("catalogue", ["read", "all"])
def test_prepared_is_what_the_files_say(raw, catalogue, tmp_path):
    options = (f"min_history={LEAST}", f"catalogue={catalogue}", *FAST)
    made = prepare(Settings("ebnerd", raw, options=options), tmp_path / "data")
    clicks = _clicks(raw)
    expected = in_time(clicks, LEAST)
    assert sequences(tmp_path / "data") == expected
    assert made.counts["interactions"] == sum(map(len, expected.values()))
    users = Counter(user for user, *_ in clicks)
    assert made.counts["dropped"][f"users of fewer than {LEAST} interactions"] == sum(
        n < LEAST for n in users.values()
    )

    read = {article for own in expected.values() for article, *_ in own}
    table = pq.read_table(raw / "articles.parquet").to_pylist()
    about = {
        row["article_id"]: row for row in table if catalogue == "all" or row["article_id"] in read
    }
    found = items(tmp_path / "data")
    assert found.keys() == about.keys()
    for article, row in about.items():
        for name in ("title", "subtitle", "category_str", "premium"):
            assert found[article][name] == row[name]
    assert labels(tmp_path / "data", "category") == {
        article: {row["category_str"]} for article, row in about.items()
    }
    assert labels(tmp_path / "data", "topic") == {
        article: set(row["topics"]) or {"no topic"} for article, row in about.items()
    }


@pytest.mark.slow
def test_users_are_grouped_by_what_most_of_their_impressions_say(raw, tmp_path):
    prepare(Settings("ebnerd", raw, options=(f"min_history={LEAST}", *FAST)), tmp_path / "data")
    users = sequences(tmp_path / "data").keys()
    said = {prior: defaultdict(Counter) for prior in ("subscriber", "device", "age", "gender")}
    for _, row in _rows(raw, "behaviors.parquet"):
        user, age = row["user_id"], row["age"]
        said["subscriber"][user]["subscriber" if row["is_subscriber"] else "no subscriber"] += 1
        said["device"][user][{1: "desktop", 2: "mobile", 3: "tablet"}[row["device_type"]]] += 1
        if age is not None:
            said["age"][user][f"{age}-{age + 9}"] += 1
        if row["gender"] is not None:
            said["gender"][user][("male", "female")[row["gender"]]] += 1
    for prior, counts in said.items():
        expected = {
            user: {
                min(counts[user], key=lambda name: (-counts[user][name], name))
                if counts[user]
                else f"unknown {prior}"
            }
            for user in users
        }
        assert labels(tmp_path / "data", prior) == expected


@pytest.mark.slow
def test_communities_and_crowds_are_found(raw, tmp_path):
    options = (f"min_history={LEAST}", "communities=5", "crowds=3", "neighbours=10", "last=40")
    prepare(Settings("ebnerd", raw, options=options), tmp_path / "data")
    manifest = read_manifest(tmp_path / "data")
    for name, kind, settings in (
        ("community", "graph", {"groups": 5, "neighbours": 10, "last": 40}),
        ("crowd", "user", {"groups": 3, "neighbours": 10}),
    ):
        prior = manifest.prior(name)
        assert prior.kind == kind
        assert settings.items() <= prior.made_by.items()
        assert len(prior.groups) > 1
    assert set(labels(tmp_path / "data", "crowd")) == set(sequences(tmp_path / "data"))


def test_one_split_will_do(raw, tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("articles.parquet", "validation"):
        (tmp_path / "raw" / name).symlink_to(raw / name)
    made = prepare(
        Settings("ebnerd", tmp_path / "raw", options=("min_history=50", *FAST)), tmp_path / "data"
    )
    behaviours = pq.read_table(raw / "validation/behaviors.parquet").to_pylist()
    histories = pq.read_table(raw / "validation/history.parquet").to_pylist()
    clicks = Counter()
    for row in behaviours:
        clicks[row["user_id"]] += len(row["article_ids_clicked"])
    for row in histories:
        clicks[row["user_id"]] += len(row["article_id_fixed"])
    assert made.counts["interactions"] == sum(n for n in clicks.values() if n >= 50)


def _change(file, column, value, row=6):
    table = pq.read_table(file)
    values = table[column].to_pylist()
    values[row] = value(values[row])
    changed = pa.array(values, table.schema.field(column).type)
    pq.write_table(table.set_column(table.column_names.index(column), column, changed), file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "column", "value", "says"),
    [
        ("train/history.parquet", "user_id", lambda _: None, "user_id must have a value: None"),
        (
            "train/history.parquet",
            "article_id_fixed",
            lambda _: None,
            "article_id_fixed must have a value: None",
        ),
        (
            "train/history.parquet",
            "article_id_fixed",
            lambda old: old[1:],
            "article_id_fixed must be as many as impression_time_fixed",
        ),
        (
            "train/history.parquet",
            "article_id_fixed",
            lambda old: [1, *old[1:]],
            "article_id must be listed in articles.parquet: 1",
        ),
        (
            "train/history.parquet",
            "impression_time_fixed",
            lambda old: [None, *old[1:]],
            "time must have a value",
        ),
        (
            "train/history.parquet",
            "impression_time_fixed",
            lambda old: [datetime(1969, 1, 1), *old[1:]],
            "time must not be before 1970",
        ),
        (
            "validation/behaviors.parquet",
            "user_id",
            lambda _: None,
            "user_id must have a value: None",
        ),
        (
            "validation/behaviors.parquet",
            "impression_time",
            lambda _: None,
            "impression_time must have a value: None",
        ),
        (
            "validation/behaviors.parquet",
            "article_ids_clicked",
            lambda _: None,
            "article_ids_clicked must have a value: None",
        ),
        (
            "validation/behaviors.parquet",
            "article_ids_clicked",
            lambda _: [1],
            "article_id must be listed in articles.parquet: 1",
        ),
        ("articles.parquet", "article_id", lambda _: None, "article_id must have a value: None"),
    ],
)
def test_a_bad_row_is_named_or_dropped_and_counted(tiny, file, column, value, says, tmp_path):
    row = 1 if "history" in file else 6
    if file == "articles.parquet":  # another article, that nobody has read
        table = pq.read_table(tiny / file)
        pq.write_table(
            pa.concat_tables([table.slice(0, 6), table.slice(5, 1), table.slice(6)]), tiny / file
        )
    _change(tiny / file, column, value, row)
    settings = Settings("ebnerd", tiny, options=("min_history=20", *FAST))
    with pytest.raises(UserError) as caught:
        prepare(settings, tmp_path / "data")
    assert f"{tiny / file}, row {row + 1}: {says}" in str(caught.value)
    made = prepare(Settings(**{**vars(settings), "on_bad_row": "drop"}), tmp_path / "data")
    (account,) = [name for name in made.counts["dropped"] if ":" in name]
    assert made.counts["dropped"][account] == 1


@pytest.mark.slow
def test_a_user_without_clicks_is_no_user(tiny, tmp_path):
    made = prepare(Settings("ebnerd", tiny, options=("min_history=20", *FAST)), tmp_path / "plain")
    history = pq.read_table(tiny / "train/history.parquet")
    empty = {name: [[]] for name in history.column_names[1:]} | {"user_id": [4_000_000]}
    extra = pa.table(
        {
            name: pa.array(empty[name], history.schema.field(name).type)
            for name in history.column_names
        }
    )
    pq.write_table(pa.concat_tables([history, extra]), tiny / "train/history.parquet")
    again = prepare(Settings("ebnerd", tiny, options=("min_history=20", *FAST)), tmp_path / "data")
    assert again.counts == made.counts


def test_a_list_of_another_kind_is_refused(tiny, tmp_path):
    file = tiny / "train/history.parquet"
    table = pq.read_table(file)
    texts = pa.array([list(map(str, own)) for own in table["article_id_fixed"].to_pylist()])
    pq.write_table(table.set_column(3, "article_id_fixed", texts), file)
    with pytest.raises(
        UserError, match=r"'article_id_fixed' is of type list<.*string> where a list of an integer"
    ):
        prepare(Settings("ebnerd", tiny), tmp_path / "data")


def test_files_that_are_missing_are_named(tiny, tmp_path):
    (tiny / "train/history.parquet").unlink()
    with pytest.raises(UserError, match=r"train' lacks history\.parquet"):
        prepare(Settings("ebnerd", tiny), tmp_path / "data")
    with pytest.raises(UserError, match=r"lacks articles\.parquet"):
        prepare(Settings("ebnerd", tiny / "train"), tmp_path / "data")


def test_histories_are_heavy_tailed(raw):
    lengths = np.array(list(Counter(user for user, *_ in _clicks(raw)).values()))
    assert 90 < lengths.mean() < 220
    assert (lengths >= 400).any()
