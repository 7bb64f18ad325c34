"""MerRec: its made-up files, and the corpus against a recomputation in plain Python."""

from collections import Counter
from datetime import UTC

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from prepared_log import in_time, items, labels, sequences

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.synthetic.merrec import EVENTS, MONTHS, SCHEMA, generate

LEAST = 60


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Made-up files, several shards a month; tests must not change them."""
    folder = tmp_path_factory.mktemp("merrec") / "raw"
    generate(folder, 12_000, 5, users_at_once=16, rows_a_shard=200)
    return folder


@pytest.fixture(scope="module")
def rows(raw):
    """All rows in raw order."""
    files = sorted(raw.glob("*/*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.fixture
def one_shard(tmp_path):
    """One month in one file, to change."""
    generate(tmp_path / "made", 1_000, 5)
    log = (
        ds.dataset(tmp_path / "made", format="parquet", exclude_invalid_files=True)
        .to_table()
        .sort_by("stime")
    )
    (tmp_path / "raw").mkdir()
    pq.write_table(log, tmp_path / "raw/000000000000.parquet")
    return tmp_path / "raw/000000000000.parquet"


def _ms(row):
    time = row["stime"].replace(tzinfo=UTC)
    return int(time.timestamp()) * 1000 + time.microsecond // 1000


def test_the_files_are_as_published(raw, rows):
    assert len(rows) == 12_000
    folders = {file.parent.name for file in raw.glob("*/*.parquet")}
    assert folders == set(MONTHS)
    assert len(list(raw.glob("20230501/*.parquet"))) > 1
    for file in raw.glob("*/*.parquet"):
        assert pq.read_schema(file).equals(SCHEMA)
        months = {
            row["stime"].strftime("%Y%m01")
            for row in pq.read_table(file, columns=["stime"]).to_pylist()
        }
        assert months == {file.parent.name}
    assert {row["event_id"] for row in rows} <= set(EVENTS)
    of_sequence = Counter((row["user_id"], row["sequence_id"]) for row in rows)
    assert all(
        row["sequence_length"] == of_sequence[row["user_id"], row["sequence_id"]] for row in rows
    )
    listings = {row["item_id"]: row["product_id"] for row in rows}
    assert all(listings[row["item_id"]] == row["product_id"] for row in rows)
    assert len(listings) > len(set(listings.values()))


def test_the_events_follow_from_rows_and_seed_alone(raw, rows, tmp_path):
    generate(tmp_path / "again", 12_000, 5)
    again = [
        row
        for file in sorted(tmp_path.glob("again/*/*.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]

    def key(row):
        return row["user_id"], row["stime"], row["item_id"], row["event_id"]

    assert sorted(again, key=key) == sorted(rows, key=key)
    generate(tmp_path / "other", 12_000, 6)
    assert (
        ds.dataset(tmp_path / "other", format="parquet", exclude_invalid_files=True).count_rows()
        == 12_000
    )


@pytest.mark.parametrize("item_id", ["product_id", "item_id"])
def test_prepared_is_what_the_files_say(raw, rows, item_id, tmp_path):
    options = (f"min_history={LEAST}", f"item_id={item_id}", "brands=5")
    made = prepare(Settings("merrec", raw, options=options), tmp_path / "data")
    expected = in_time(
        [(row["user_id"], row[item_id], _ms(row), row["event_id"]) for row in rows], LEAST
    )
    assert sequences(tmp_path / "data") == expected

    users = Counter(row["user_id"] for row in rows)
    short = {user: n for user, n in users.items() if n < LEAST}
    assert made.counts["dropped"][f"users of fewer than {LEAST} interactions"] == len(short)
    assert made.counts["dropped"][f"interactions of users of fewer than {LEAST}"] == sum(
        short.values()
    )
    assert made.counts["interactions"] == len(rows) - sum(short.values())

    first = {}
    for row in rows:
        if row["user_id"] in expected:
            first.setdefault(row[item_id], row)
    found = items(tmp_path / "data")
    assert found.keys() == first.keys()
    for item, row in first.items():
        assert found[item]["title"] == row["name"]
        for name in (
            "price",
            "c0_name",
            "c1_name",
            "c2_name",
            "brand_name",
            "item_condition_id",
            "color",
        ):
            assert found[item][name] == row[name]
    for level, prior in enumerate(("c0", "c1", "c2")):
        names = {
            item: {" > ".join(row[f"c{n}_name"] for n in range(level + 1))}
            for item, row in first.items()
        }
        assert labels(tmp_path / "data", prior) == names
    counts = Counter(row["brand_name"] for row in first.values() if row["brand_name"])
    frequent = sorted(counts, key=lambda name: (-counts[name], name))[:5]
    for item, own in labels(tmp_path / "data", "brand").items():
        brand = first[item]["brand_name"]
        assert own == {brand if brand in frequent else "other brands" if brand else "no brand"}
    assert made.events == list(EVENTS)
    assert made.category_prior == "c0"
    assert ("condition" in [prior.name for prior in made.priors]) == (item_id == "item_id")


def test_users_are_not_that_active(raw, tmp_path):
    with pytest.raises(
        UserError, match=r"no user of \d+ has 20,000 interactions, .* --option min_history=\d+"
    ):
        prepare(Settings("merrec", raw, options=("min_history=20000",)), tmp_path / "data")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("user_id", None, "user_id must have a value: None"),
        ("product_id", None, "product_id must have a value: None"),
        ("stime", None, "stime must have a value: None"),
        ("event_id", "item_veiw", "event_id must be one of item_view, .*: 'item_veiw'"),
        ("event_id", None, "event_id must have a value"),
        ("stime", -1, "stime must not be before 1970"),
    ],
)
def test_a_bad_row_is_named_or_dropped_and_counted(one_shard, column, value, says, tmp_path):
    log = pq.read_table(one_shard)
    bad = (
        pa.array([value], pa.int64()).cast(log[column].type)
        if column == "stime"
        else pa.array([value], log[column].type)
    )
    changed = pa.chunked_array(
        [log[column].slice(0, 6).combine_chunks(), bad, log[column].slice(7).combine_chunks()]
    )
    pq.write_table(log.set_column(log.column_names.index(column), column, changed), one_shard)
    settings = Settings("merrec", one_shard.parent, options=("min_history=5",))
    with pytest.raises(
        UserError, match=rf"000000000000\.parquet, row 7: {says}.*--on-bad-row drop"
    ):
        prepare(settings, tmp_path / "data")
    made = prepare(Settings(**{**vars(settings), "on_bad_row": "drop"}), tmp_path / "data")
    (account,) = [name for name in made.counts["dropped"] if column in name]
    assert made.counts["dropped"][account] == 1


def test_a_title_that_is_no_utf8_is_named_or_dropped_and_counted(one_shard, tmp_path):
    log = pq.read_table(one_shard)
    names = [name.encode() for name in log["name"].to_pylist()]
    names[6] = b"caf\xe9"
    broken = pa.array(names, pa.binary()).view(pa.string())
    pq.write_table(log.set_column(log.column_names.index("name"), "name", broken), one_shard)
    settings = Settings("merrec", one_shard.parent, options=("min_history=5",))
    with pytest.raises(UserError, match=r"000000000000\.parquet, row 7: name is not UTF-8 text"):
        prepare(settings, tmp_path / "data")
    made = prepare(Settings(**{**vars(settings), "on_bad_row": "drop"}), tmp_path / "data")
    assert made.counts["dropped"]["000000000000.parquet: name is not UTF-8 text"] == 1


def test_columns_of_other_widths_and_with_a_time_zone_are_read(one_shard, tmp_path):
    settings = Settings("merrec", one_shard.parent, options=("min_history=5",))
    prepare(settings, tmp_path / "plain")
    log = pq.read_table(one_shard)
    for name, kind in (
        ("user_id", pa.int32()),
        ("stime", pa.timestamp("ms", "UTC")),
        ("price", pa.int64()),
        ("name", pa.large_string()),
    ):
        column = pc.floor(log[name]) if name == "price" else log[name]
        log = log.set_column(log.column_names.index(name), name, column.cast(kind))
    pq.write_table(log, one_shard)
    prepare(settings, tmp_path / "wide")
    assert sequences(tmp_path / "wide") == sequences(tmp_path / "plain")


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_an_id_beyond_int64_is_named_or_dropped_and_counted(one_shard, column, tmp_path):
    log = pq.read_table(one_shard)
    ids = log[column].to_pylist()
    ids[6:40] = [2**63 + 5] * 34  # as many as a user or an item needs to be kept
    pq.write_table(
        log.set_column(log.column_names.index(column), column, pa.array(ids, pa.uint64())),
        one_shard,
    )
    settings = Settings("merrec", one_shard.parent, options=("min_history=5", "item_id=item_id"))
    with pytest.raises(
        UserError, match=rf"row 7: {column} must be below 2\^63: 9223372036854775813"
    ):
        prepare(settings, tmp_path / "data")
    made = prepare(Settings(**{**vars(settings), "on_bad_row": "drop"}), tmp_path / "data")
    assert made.counts["dropped"][f"000000000000.parquet: {column} must be below 2^63"] == 34


def test_a_column_of_another_kind_is_refused(one_shard, tmp_path):
    log = pq.read_table(one_shard)
    pq.write_table(log.set_column(3, "stime", log["stime"].cast(pa.string())), one_shard)
    with pytest.raises(
        UserError, match="column 'stime' is of type string where a timestamp is expected"
    ):
        prepare(Settings("merrec", one_shard.parent), tmp_path / "data")


def test_a_folder_without_months_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no month of MerRec, such as"):
        prepare(Settings("merrec", tmp_path), tmp_path / "data")
