"""A corpus of any Arrow types: read as it is meant, or refused in one line; ids and times are what they were."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build import contents
from torchrec_priors.preparation.build.check import check
from torchrec_priors.preparation.build.plain_types import plain
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.on_duckdb import temporary
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.serving.catalogue import Catalogue

NOW = 1_700_000_000_000
LOG = {"user_id": ["a", "b"], "item_id": [1, 2], "timestamp": [NOW, NOW + 1], "order": [1, 2]}
ITEMS = {"item_id": [1, 2], "title": ["Tea", None]}


@pytest.fixture(scope="module")
def engine():
    with temporary() as made:
        yield made


def _corpus(log=LOG, items=ITEMS, ids=None, events=None) -> Corpus:
    """Of two interactions; `ids` of the items are those of every table."""
    log, items = dict(log), dict(items)
    if ids is not None:
        log["item_id"] = items["item_id"] = ids
    if events is not None:
        log["event"] = events
    labels = pa.table({"item_id": items["item_id"], "label": ["x", ""]})
    return Corpus(
        name="shop",
        interactions=ibis.memtable(pa.table(log)),
        items=ibis.memtable(pa.table(items)),
        category_prior="kind",
        default_horizon=1,
        events=() if events is None else ("view", "buy"),
        event_prior=None if events is None else "action",
        item_priors=[Labels("kind", ibis.memtable(labels), "other")],
    )


def _plain(corpus: Corpus, engine) -> Corpus:
    made = plain(check(corpus, Path("shop.py")), engine)
    contents.check_catalogue(engine, made)
    contents.check_log(engine, made)
    return made


IDS = {
    "int8": (pa.array([1, 2], pa.int8()), [1, 2]),
    "uint64": (pa.array([1, 2**63 - 1], pa.uint64()), [1, 2**63 - 1]),
    "int64": (pa.array([-(2**63), 2**63 - 1]), [-(2**63), 2**63 - 1]),
    "a decimal of one digit": (pa.array([Decimal(1), Decimal(2)], pa.decimal128(1, 0)), [1, 2]),
    "a decimal of 38": (pa.array([Decimal(1), Decimal(2)], pa.decimal128(38, 0)), [1, 2]),
    "dates": (pa.array([date(2020, 1, 1), date(2020, 1, 2)]), ["2020-01-01", "2020-01-02"]),
    "large text": (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
    "views": (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
    "a dictionary": (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    "odd text": (pa.array(['a,"\n\0', " 007 "]), ['a,"\n\0', " 007 "]),
}


@pytest.mark.parametrize(("ids", "expected"), IDS.values(), ids=IDS)
def test_ids_are_integers_or_text(ids, expected, engine):
    made = _plain(_corpus(ids=ids), engine)
    for table in (made.interactions, made.items, made.item_priors[0].table):
        assert sorted(engine.to_arrow(table)["item_id"].to_pylist()) == sorted(expected)


TIMES = {
    "int64": pa.array([NOW, NOW + 1]),
    "uint64": pa.array([NOW, NOW + 1], pa.uint64()),
    **{
        f"timestamp {unit} {zone}": pa.array([NOW, NOW + 1], pa.timestamp("ms")).cast(
            pa.timestamp(unit, zone)
        )
        for unit in ("ms", "us", "ns")
        for zone in (None, "UTC", "America/New_York")
    },
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_times_are_milliseconds_whatever_their_type(times, engine):
    log = engine.to_arrow(
        _plain(_corpus({**LOG, "timestamp": times}), engine).interactions.order_by("order")
    )
    assert log["timestamp"].to_pylist() == [NOW, NOW + 1]


def test_narrow_integers_and_dates_are_times(engine):
    for times, expected in (
        (pa.array([5, 7], pa.int32()), [5, 7]),
        (pa.array([date(2020, 1, 1), None]), None),
        (pa.array([date(1970, 1, 2), date(2020, 1, 1)]), [86_400_000, 1_577_836_800_000]),
    ):
        corpus = _corpus({**LOG, "timestamp": times, "order": pa.array([1, 2], pa.int8())})
        if expected is None:
            with pytest.raises(UserError, match="1 interactions have no timestamp"):
                _plain(corpus, engine)
            continue
        log = engine.to_arrow(_plain(corpus, engine).interactions.order_by("order"))
        assert log["timestamp"].to_pylist() == expected


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int32(), pa.uint64()])
def test_event_codes_of_any_width_are_checked_before_they_are_narrowed(kind, engine):
    made = _plain(_corpus(events=pa.array([0, 1], kind)), engine)
    assert engine.to_arrow(made.interactions.order_by("order"))["event"].to_pylist() == [0, 1]
    with pytest.raises(UserError, match="event code outside 0 to 1, such as 100:"):
        _plain(_corpus(events=pa.array([0, 100], kind)), engine)


REFUSED = {
    "floats": ({"ids": pa.array([1.0, 2.0])}, "'item_id' of interactions is float64 where integers or text"),
    "bytes": ({"ids": pa.array([b"a", b"b"])}, "'item_id' of interactions is binary where integers or text is"),
    "lists": ({"ids": pa.array([[1], [2]])}, "'item_id' of interactions is array<int64> where integers or text"),
    "a fraction": ({"ids": pa.array([Decimal("1.5"), Decimal(2)])}, r"is decimal\(2, 1\) where integers or text"),
    "beyond": ({"ids": pa.array([1, 2**63], pa.uint64())}, "item_id 9223372036854775808 of .* is beyond 64-bit"),
    "nulls": ({"ids": pa.nulls(2)}, "'item_id' of interactions is null where integers or text is expected"),
    "a null": ({"items": {**ITEMS, "item_id": [1, None]}}, "1 rows of its catalogue have no item_id"),
    "empty text": ({"log": {**LOG, "user_id": ["a", ""]}}, "1 interactions have no user_id"),
    "titles": ({"items": {**ITEMS, "title": [[1], [2]]}}, "'title' of items is array<int64> where text is expected"),
    "seconds": ({"log": {**LOG, "timestamp": [NOW // 1000] * 2}}, "2 of 2 interactions .* 1970-01-20.*seconds"),
    "a second": ({"log": {**LOG, "timestamp": [NOW, NOW // 1000]}}, "1 of 2 interactions .* 1970-01-20.*1000"),
    "microseconds": ({"log": {**LOG, "timestamp": [NOW * 1000] * 2}}, "outside the years 1 to 9999, such as 17"),
    "long ago": ({"log": {**LOG, "timestamp": [-(2**63), NOW]}}, "1 interactions have times outside the years"),
    "an interval": (
        {"items": {**ITEMS, "stay": pa.array([1, 2], pa.duration("s"))}},
        r"'stay' of items is interval\('s'\) where a type that Parquet keeps is expected",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_neither_is_refused_in_one_line(changes, says, engine):
    with pytest.raises(UserError, match=says) as caught:
        _plain(_corpus(**changes), engine)
    assert "\n" not in str(caught.value)


def test_a_column_of_nothing_is_text(engine):
    made = _plain(
        _corpus(items={"item_id": [1, 2], "title": pa.nulls(2), "brand": pa.nulls(2)}), engine
    )
    assert engine.to_arrow(made.items).schema.field("brand").type == pa.string()
    assert made.items.title.type().is_string()


def test_logs_of_small_times_are_no_seconds(engine):
    _plain(_corpus({**LOG, "timestamp": [0, 1_000_000_000]}), engine)


OWN = """
import pyarrow.parquet as pq
from torchrec_priors.preparation.corpus import Corpus, Labels
def load(raw, bad_rows, engine):
    log, items = (
        engine.read_parquet([raw / name], {f.name: f.type for f in pq.read_schema(raw / name)}, bad_rows)
        for name in ("log.parquet", "items.parquet")
    )
    items = items.select("item_id", "title", label="category")
    return Corpus("own", log.select("user_id", "item_id", "timestamp", "order"), items.drop("label"),
                  item_priors=[Labels("category", items.select("item_id", "label"), "none")],
                  category_prior="category", default_horizon=1)
"""


def test_files_of_odd_types_become_a_data_set_with_plain_ids_and_titles_that_are_there(tmp_path):
    users, items = [f"u,{n % 3}\n" for n in range(24)], [Decimal(n % 4) for n in range(24)]
    moments = [datetime.fromtimestamp(NOW / 1000 + n, UTC) for n in range(24)]
    (tmp_path / "raw").mkdir()
    log = {
        "user_id": pa.array(users, pa.large_string()).dictionary_encode(),
        "item_id": pa.array(items, pa.decimal128(38, 0)),
        "timestamp": pa.array(moments, pa.timestamp("ns", "Europe/Berlin")),
    }
    about = {
        "item_id": pa.array([Decimal(n) for n in range(4)], pa.decimal128(38, 0)),
        "title": ["Tea", None, "two\nlines", ""],
        "nothing": pa.nulls(4),
        "category": pa.array(["a", "", None, "  "], pa.string_view()),
    }
    pq.write_table(pa.table(log), tmp_path / "raw" / "log.parquet")
    pq.write_table(pa.table(about), tmp_path / "raw" / "items.parquet")
    (tmp_path / "own.py").write_text(OWN)
    made = prepare(Settings(str(tmp_path / "own.py"), tmp_path / "raw"), tmp_path / "out")
    assert (made.prior("category").groups, made.prior("category").sizes) == (["none", "a"], [3, 1])
    data = PreparedData(tmp_path / "out")
    assert data.find_user("u,1\n", ["timestamps"]).columns["timestamps"].tolist()[0] == NOW + 1000
    catalogue = Catalogue.of(data)
    shown = {catalogue.item_id(row): catalogue.title(row) for row in range(4)}
    assert json.loads(json.dumps(shown)) == {"0": "Tea", "1": "", "2": "two\nlines", "3": ""}
    with pytest.raises(UserError, match=r"has no item '\(\)'"):
        catalogue.history(["0", "()"])


def test_ids_that_an_earlier_version_kept_as_they_were_are_shown_as_text():
    ids = pa.array([date(2020, 1, 1)])
    catalogue = Catalogue("old", ids, pa.array(["x"]), ids.cast(pa.string()))
    assert catalogue.item_id(0) == "2020-01-01"


def test_a_mistake_in_a_load_of_ones_own_is_named_by_its_line(tmp_path):
    (tmp_path / "raw").mkdir()
    for body, says in (
        ("return [][1]", r"own\.py', line 2: IndexError: list index out of range"),
        ("raise UserError('said')", "^said$"),
    ):
        text = f"def load(raw, bad_rows):\n    {body}\n\nfrom torchrec_priors.errors import UserError\n"
        (tmp_path / "own.py").write_text(text)
        with pytest.raises(UserError, match=says):
            prepare(Settings(str(tmp_path / "own.py"), tmp_path / "raw"), tmp_path / "out")


def test_a_corpus_of_plain_types_stays_as_it_is(engine):
    corpus = _corpus()
    assert plain(corpus, engine).interactions is corpus.interactions
    assert plain(replace(corpus, items=ibis.memtable(pa.table(ITEMS))), engine).name == "shop"
