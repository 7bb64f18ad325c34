"""Globo.com: made-up files in its schema against plain Python, and the real files."""

import csv
import random
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_rows import assert_named_or_dropped
from prepared_log import in_time, items, labels, sequences

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "globo"
START = 1_506_826_800_000
COLUMNS = (
    "user_id",
    "session_id",
    "session_start",
    "session_size",
    "click_article_id",
    "click_timestamp",
    "click_environment",
    "click_deviceGroup",
    "click_os",
    "click_country",
    "click_region",
    "click_referrer_type",
)
USER_PRIORS = {"device": "click_deviceGroup", "country": "click_country", "region": "click_region"}


def _clicks():
    """12 users of 6 to 28 clicks, as rows in order of time over three hours."""
    draw = random.Random(4)
    rows = []
    for user in range(12):
        for article in draw.sample(range(50), 6 + 2 * user):
            time = START + draw.randrange(3 * 3_600_000)
            device, country, region = draw.choice([1, 3, 3]), draw.choice([1, 1, 10]), user % 4
            rows.append((user, 99, START, 2, article, time, 4, device, 17, country, region, 2))
    return sorted(rows, key=lambda row: row[5])


def _articles():
    """Categories of 60 articles in the form that has `how`; nobody has read the last ten."""
    rows = []
    for article in range(60):
        how = ("listed", "bracketed", "listed", "unknown")[article % 4]
        listed = how == "listed"
        rows.append(
            {
                "article_id": article,
                "category_id": -1 if how == "unknown" else int(article**0.5),
                "how": how,
                "clicks": 1,
                "created_at_ts": f"{START + article}.0" if listed else "",
                "publisher_id": "0.0" if listed else "",
                "words_count": f"{100 + article}.0" if listed else "",
            }
        )
    return rows


def _write_csv(file, header, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf8", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])


def _write_articles(raw, rows=None):
    rows = rows or _articles()
    _write_csv(raw / "article_categories.csv", rows[0], [row.values() for row in rows])


def _write_published(raw):
    """The published articles: whole numbers, a category for each, no `how`."""
    header = ("article_id", "category_id", "created_at_ts", "publisher_id", "words_count")
    rows = [(row["article_id"], row["article_id"] // 7, START, 0, 5) for row in _articles()]
    _write_csv(raw / "articles_metadata.csv", header, rows)


def _write_clicks(file, rows):
    columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)


@pytest.fixture
def raw(tmp_path):
    _write_clicks(tmp_path / "raw" / "clicks.parquet", _clicks())
    _write_articles(tmp_path / "raw")
    return tmp_path / "raw"


def _prepare(raw, tmp_path, *options, **settings):
    return prepare(Settings("globo", raw, options=options, **settings), tmp_path / "data")


def _expected():
    return in_time([(row[0], row[4], row[5], None) for row in _clicks()], 17)


@pytest.mark.slow
@pytest.mark.parametrize("catalogue", ["clicked", "read"])
@pytest.mark.parametrize("categories", ["bracketed", "listed"])
def test_prepared_is_what_the_files_say(raw, categories, catalogue, tmp_path):
    options = (f"categories={categories}", f"catalogue={catalogue}", "sections=3")
    made = _prepare(raw, tmp_path, *options)
    expected = _expected()
    assert sequences(tmp_path / "data") == expected
    assert 0 < len(expected) < 12
    assert made.counts["dropped"] == {
        "users of at most twice the horizon": 12 - len(expected),
        "their interactions": len(_clicks()) - sum(map(len, expected.values())),
    }

    clicked = {row[4] for row in _clicks()}
    read = {item for own in expected.values() for item, *_ in own}
    about = items(tmp_path / "data")
    assert about.keys() == (clicked if catalogue == "clicked" else read)
    rows = {row["article_id"]: row for row in _articles()}
    assert len(about) < len(rows)
    for article, own in about.items():
        row = rows[article]
        assert own["title"] == f"article {article}"
        assert (own["category_id"], own["how"]) == (row["category_id"], row["how"])
        listed = row["how"] == "listed"
        assert own["created_at_ts"] == (START + article if listed else None)
        assert own["words_count"] == (100.0 + article if listed else None)

    allowed = ("listed",) if categories == "listed" else ("listed", "bracketed")
    category = {
        article: f"category {rows[article]['category_id']}"
        for article in clicked
        if rows[article]["how"] in allowed
    }
    assert labels(tmp_path / "data", "category") == {
        article: {category.get(article, "unknown category")} for article in about
    }
    # The largest categories of all clicked articles, of equally large ones the first by name.
    sizes = Counter(category.values())
    sections = sorted(sizes, key=lambda name: (-sizes[name], name))[:3]
    for article, own in labels(tmp_path / "data", "section").items():
        name = category.get(article, "unknown section")
        known = name in sections or name == "unknown section"
        assert own == {name if known else "other categories"}
    assert made.category_prior == "category"


def test_users_are_grouped_by_most_of_their_clicks(raw, tmp_path):
    _prepare(raw, tmp_path)
    for prior, column in USER_PRIORS.items():
        counts = defaultdict(Counter)
        for row in _clicks():
            counts[row[0]][f"{prior} {row[COLUMNS.index(column)]}"] += 1
        assert labels(tmp_path / "data", prior) == {
            user: {min(counts[user], key=lambda name: (-counts[user][name], name))}
            for user in _expected()
        }


def test_a_user_without_any_region_is_unknown(tmp_path):
    rows = [(*row[:10], None if row[0] == 9 else row[10], row[11]) for row in _clicks()]
    _write_clicks(tmp_path / "raw" / "clicks.parquet", rows)
    _write_articles(tmp_path / "raw")
    _prepare(tmp_path / "raw", tmp_path)
    found = labels(tmp_path / "data", "region")
    assert {user for user, own in found.items() if own == {"unknown region"}} == {9}


@pytest.mark.slow
def test_the_published_form_says_the_same(raw, tmp_path):
    """A file for each hour, in a folder of the archive, and the published articles."""
    _prepare(raw, tmp_path)
    for hour in range(3):
        rows = [row for row in _clicks() if (row[5] - START) // 3_600_000 == hour]
        _write_csv(tmp_path / f"hours/clicks/clicks/clicks_hour_{hour:03}.csv", COLUMNS, rows)
    _write_csv(tmp_path / "hours/clicks_sample.csv", COLUMNS, _clicks()[:9])
    _write_published(tmp_path / "hours")
    settings = Settings("globo", tmp_path / "hours", options=("categories=listed",))
    prepare(settings, tmp_path / "published")
    assert sequences(tmp_path / "published") == sequences(tmp_path / "data")
    for prior in USER_PRIORS:
        assert labels(tmp_path / "published", prior) == labels(tmp_path / "data", prior)
    about = items(tmp_path / "published")
    assert {row["how"] for row in about.values()} == {"listed"}
    assert labels(tmp_path / "published", "category") == {
        article: {f"category {article // 7}"} for article in about
    }
    assert {(row["created_at_ts"], row["words_count"]) for row in about.values()} == {(START, 5.0)}


def test_the_published_articles_win(raw, tmp_path):
    _write_published(raw)
    _prepare(raw, tmp_path)
    assert {row["how"] for row in items(tmp_path / "data").values()} == {"listed"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("user_id", None, "user_id must have a value"),
        ("click_article_id", None, "click_article_id must have a value"),
        ("click_timestamp", None, "click_timestamp must have a value"),
        ("click_timestamp", -1, "click_timestamp must not be negative: -1"),
        ("click_article_id", 77, "click_article_id must be listed in article_categories.csv: 77"),
    ],
)
def test_a_bad_click_is_named_or_dropped_and_counted(raw, column, value, says, tmp_path):
    rows = _clicks()
    place = COLUMNS.index(column)
    rows[6] = (*rows[6][:place], value, *rows[6][place + 1 :])
    _write_clicks(raw / "clicks.parquet", rows)
    assert_named_or_dropped(partial(_prepare, raw, tmp_path), "clicks.parquet", "row 7", says)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("how", "guessed", "how must be one of listed, bracketed, unknown: 'guessed'"),
        ("category_id", -1, "category_id must not be negative: -1"),
        ("words_count", "many", "words_count must be a number or empty: 'many'"),
        ("created_at_ts", "1-1-17", "created_at_ts must be a number or empty: '1-1-17'"),
        ("article_id", "x", "article_id is not an integer"),
    ],
)
def test_a_bad_article_is_named_or_dropped_and_counted(raw, column, value, says, tmp_path):
    # Nobody has read this article, so clicks do not depend on it.
    rows = _articles()
    rows[56] = {**rows[56], column: value}
    _write_articles(raw, rows)
    file = "article_categories.csv"
    assert_named_or_dropped(partial(_prepare, raw, tmp_path), file, "line 58", says)


def test_an_article_that_is_listed_twice_is_refused(raw, tmp_path):
    _write_articles(raw, [*_articles(), _articles()[3]])
    with pytest.raises(UserError, match="line 62: the same article_id twice: '3'"):
        _prepare(raw, tmp_path)


def test_missing_and_doubled_files_are_named(raw, tmp_path):
    with pytest.raises(UserError, match="sections must be at least 1, not 0"):
        _prepare(raw, tmp_path, "sections=0")
    with pytest.raises(UserError, match="there is no folder"):
        _prepare(tmp_path / "absent", tmp_path)
    _write_csv(raw / "clicks_hour_000.csv", COLUMNS, _clicks())
    with pytest.raises(
        UserError, match=r"the clicks once; found clicks\.parquet, clicks_hour_000\.csv"
    ):
        _prepare(raw, tmp_path)
    (raw / "clicks_hour_000.csv").unlink()
    (raw / "clicks.parquet").unlink()
    with pytest.raises(UserError, match=r"holds neither clicks\.parquet nor clicks_hour_"):
        _prepare(raw, tmp_path)
    (raw / "again").mkdir()
    (raw / "again/article_categories.csv").write_bytes(
        (raw / "article_categories.csv").read_bytes()
    )
    with pytest.raises(UserError, match=r"one article_categories\.csv; found again/"):
        _prepare(raw, tmp_path)
    (raw / "again/article_categories.csv").unlink()
    (raw / "article_categories.csv").unlink()
    with pytest.raises(
        UserError, match=r"neither articles_metadata\.csv nor article_categories\.csv"
    ):
        _prepare(raw, tmp_path)


@pytest.mark.slow
def test_the_real_files_have_their_size(tmp_path):
    if not (REAL / "clicks.parquet").is_file():
        pytest.skip(f"Globo.com's clicks are not at {REAL}")
    made = prepare(Settings("globo", REAL), tmp_path / "data")
    assert made.counts["users"] == 45_102
    assert made.counts["items"] == 46_033
    assert made.counts["interactions"] == 1_557_317
    assert made.counts["dropped"] == {
        "users of at most twice the horizon": 277_795,
        "their interactions": 1_430_864,
    }
    groups = {
        prior.name: dict(zip(prior.groups, prior.sizes, strict=True)) for prior in made.priors
    }
    assert len(groups["category"]) == 200
    assert groups["category"]["unknown category"] == 3_491
    assert len(groups["section"]) == 42
    assert groups["device"]["device 1"] == 28_866
    assert len(groups["region"]) == 28
    how = Counter(row["how"] for row in items(tmp_path / "data").values())
    assert how == {"listed": 9_912, "bracketed": 32_630, "unknown": 3_491}
