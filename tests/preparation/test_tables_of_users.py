"""Tables as people have them: each is read with the right counts, or one line says what to give."""

import gzip
import re
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.on_duckdb import DuckDB
from torchrec_priors.preparation.inputs import TableInput
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.table.options import TableOptions
from torchrec_priors.preparation.table.prepare_table import prepare_table

USERS, EVENTS = 4, 5
TOTAL = USERS * EVENTS
FIRST = 1_709_251_200_000  # 2024-03-01, in ms
HOUR = 3_600_000


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """`start(folder)`: a new engine; one connection after another is cheap, a data set is not."""
    engines = []

    def engine():
        engines.append(DuckDB(tmp_path_factory.mktemp("engine"), "500MB"))
        return engines[-1]

    yield engine
    for one in engines:
        one.close()


def _log(time, separator=",", user="u{}", item="i{}", end="\n"):
    """A log of every user with every item; `time` writes a time that is given in ms."""
    lines = [separator.join(("ts", "user_id", "item_id"))]
    for number in range(TOTAL):
        names = (user.format(number // EVENTS), item.format(number % EVENTS))
        lines.append(separator.join((time(FIRST + number * HOUR), *names)))
    return end.join(lines) + end


def _iso(form):
    return lambda ms: pa.scalar(ms, pa.timestamp("ms")).as_py().strftime(form)


@dataclass(frozen=True)
class Case:
    """A CSV file, and what must be read from it.

    `first` is the first time in ms, `dropped` the counted bad rows; `says` is part of the one line
    that refuses the file without `--on-bad-row drop`.
    """

    content: bytes
    words: str
    user: object = "u0"
    item: object = "i0"
    first: int = FIRST
    rows: int = TOTAL
    dropped: dict = field(default_factory=dict)
    says: str | None = None


SECONDS = _log(lambda ms: str(ms // 1000), ";")
NULLS = (
    _log(lambda ms: str(ms))
    + f"{FIRST},,i1\n{FIRST},NULL,i1\n{FIRST},u1,\n,u1,i2\nnot a time,u1,i2\n0,u1,i2\n"
)
CASES = {
    "semicolons, seconds": Case(SECONDS.encode(), "';'"),
    "tabs, dates": Case(
        _log(_iso("%Y-%m-%d"), "\t").encode(), "tabs between the values", first=FIRST
    ),
    "bars, milliseconds, ends of Windows": Case(
        _log(str, "|", end="\r\n").encode(), "'|' between the values"
    ),
    "gz": Case(gzip.compress(_log(str).encode()), "','"),
    "byte order mark, leading zeros": Case(
        b"\xef\xbb\xbf" + _log(str, user="{:03d}", item="0{}").encode(),
        "such as '000'",
        user="000",
        item="00",
    ),
    "ISO with a zone": Case(
        _log(_iso("%Y-%m-%dT%H:%M:%S+02:00")).encode(), "dates and times", first=FIRST - 2 * HOUR
    ),
    "ISO with a zone by name": Case(
        _log(_iso("%Y-%m-%d %H:%M:%S UTC")).encode(), "dates and times"
    ),
    "integers, fractions of seconds": Case(
        _log(lambda ms: f"{ms // 1000}.25", user="{}", item="{}").encode(),
        "integers such as 0",
        user=0,
        item=0,
        first=FIRST + 250,
    ),
    "quotes with line ends": Case(
        _log(str, user='"u{}"', item='"i;{}\n""b"""').encode(),
        "','",
        item='i;0 "b"',
    ),
    "missing values": Case(
        NULLS.encode(),
        "milliseconds",
        dropped={
            "log.csv: user_id must have a value": 2,
            "log.csv: item_id must have a value": 1,
            "log.csv: ts is not a time (milliseconds since 1970)": 2,
            "log.csv: ts must be in the years 1971 to 2199": 1,
        },
        says="line 25: ts is not a time (milliseconds since 1970): '' (--on-bad-row drop leaves",
    ),
}


def _options(folder: Path, content: bytes, **more) -> TableOptions:
    (folder / "log.csv").write_bytes(content)
    given = {"user": "user_id", "item": "item_id", "time": "ts", **more}
    return TableOptions(table=str(folder / "log.csv"), **given)


def _load(options: TableOptions, engine, policy="refuse"):
    bad_rows = BadRows(policy)
    loaded = TableInput(options.described()).load(bad_rows, engine)
    return engine.to_arrow(loaded.corpus.interactions.order_by("order")), loaded, bad_rows


def test_columns_that_no_option_names_are_said(start, tmp_path):
    content = b"user_id,kind,item_id,ts,price\n1,view,7,1700000000,2.5\n"
    assert (
        "  not used: 'kind', 'price'" in _load(_options(tmp_path, content), start())[1].understood
    )
    every = _options(tmp_path, content, event="kind", label=["price"])
    assert "not used" not in "\n".join(_load(every, start())[1].understood)


# These are read in every run of the tests, the others in the slow ones.
QUICK = ("gz", "byte order mark, leading zeros", "quotes with line ends", "missing values")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)
def test_ten_tables_of_the_real_world(case, start, tmp_path):
    options = _options(tmp_path, case.content)
    if case.says is not None:
        with pytest.raises(UserError, match=re.escape(case.says)):
            _load(options, start())
    rows, loaded, bad_rows = _load(options, start(), "drop" if case.dropped else "refuse")

    assert len(rows) == case.rows
    assert bad_rows.dropped == case.dropped
    assert case.words in "\n".join(loaded.understood)
    assert (rows["user_id"][0].as_py(), rows["item_id"][0].as_py()) == (case.user, case.item)
    assert rows["timestamp"][0].as_py() == case.first
    assert len(rows["user_id"].unique()) == USERS
    assert len(rows["item_id"].unique()) == EVENTS


REFUSED = {
    "a form of times that is not known": (
        _log(_iso("%d.%m.%Y %H:%M")),
        "times such as '01.03.2024 00:00', whose form is not known: give it, such as --time-format",
    ),
    "numbers that begin in 1970": (
        _log(lambda ms: str((ms - FIRST) // HOUR)),
        "numbers such as 0, which are no times after 1970 in a usual unit: --time-format s, ms",
    ),
    "a column that is not there": (
        _log(str).replace("user_id", "visitor"),
        "no column 'user_id'; it has 'ts', 'visitor', 'item_id': give one of these",
    ),
    "no line of names": (
        _log(str).partition("\n")[2],
        "put a first line with names into it, such as 'user_id'",
    ),
    "a quote that is not closed": (_log(str) + f'{FIRST},"u1,i2\n', "a quote that is not closed"),
    "an empty file": ("", "is empty"),
}


@pytest.mark.parametrize(("content", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_one_line_says_what_to_give(content, says, start, tmp_path):
    with pytest.raises(UserError, match=re.escape(says)) as refused:
        _load(_options(tmp_path, content.encode()), start())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(_log(str).encode())[:-20], "is damaged"),
        (_log(str).encode("utf-16"), "save it as UTF-8"),
        (b"PK\x03\x04" + bytes(40), "unpack it, or save it as CSV"),
    ],
    ids=["gz that was cut", "UTF-16", "zip"],
)
def test_files_that_are_no_text(content, says, start, tmp_path):
    with pytest.raises(UserError, match=says):
        _load(_options(tmp_path, content), start())


@pytest.mark.slow
def test_a_log_of_which_half_is_before_1971_is_refused_even_if_bad_rows_are_dropped(
    start, tmp_path
):
    content = _log(str) + "".join(f"{number},u1,i1\n" for number in range(TOTAL))
    options = _options(tmp_path, content.encode(), time_format="ms")
    with pytest.raises(UserError, match="20 of 40 rows have a ts before 1971, the first is 1 Jan"):
        _load(options, start(), "drop")


@pytest.mark.slow
def test_the_remedies_work(start, tmp_path):
    european = _options(
        tmp_path, _log(_iso("%d.%m.%Y %H:%M")).encode(), time_format="%d.%m.%Y %H:%M"
    )
    rows, _, _ = _load(european, start())
    assert rows["timestamp"][1].as_py() == FIRST + HOUR

    numbers = _log(lambda ms: str((ms - FIRST) // HOUR)).encode()
    rows, loaded, _ = _load(_options(tmp_path, numbers, time_format="order"), start())
    assert rows["timestamp"].to_pylist() == list(range(TOTAL))
    assert not loaded.corpus.has_times


def test_catalogue_events_and_labels(start, tmp_path):
    lines = _log(str, item="{}").splitlines()
    content = "\n".join([lines[0] + ",kind", *(f"{line},view" for line in lines[1:-1])])
    content += f"\n{lines[-1]},buy\n"
    (tmp_path / "items.csv").write_text(
        "id;name;tags\n0;One;a|b\n1;;\n2;Two;a\n3;Three;b | c\n4;Four;NULL\n5;Five;c\n"
    )
    (tmp_path / "users.csv").write_text("user_id,segment,age\nu0,gold,20\nu1,,30\nu9,gold,40\n")
    options = _options(
        tmp_path,
        content.encode(),
        item="item_id=id",
        event="kind",
        items=str(tmp_path / "items.csv"),
        title="name",
        label=("tags=|",),
        user_label=(f"segment={tmp_path / 'users.csv'}", f"age={tmp_path / 'users.csv'}"),
    )
    engine = start()
    rows, loaded, _ = _load(options, engine)
    corpus = loaded.corpus

    assert corpus.events == ("buy", "view")
    assert rows["event"].to_pylist() == [1] * (TOTAL - 1) + [0]
    titles = engine.to_arrow(corpus.items.order_by("item_id"))
    assert titles["item_id"].to_pylist() == list(range(6))
    assert titles["title"].to_pylist() == ["One", "", "Two", "Three", "Four", "Five"]
    tags = engine.to_arrow(corpus.item_priors[0].table).to_pylist()
    assert {(row["item_id"], row["label"]) for row in tags} == {
        (0, "a"), (0, "b"), (2, "a"), (3, "b"), (3, "c"), (5, "c"),
    }  # fmt: skip
    assert [prior.name for prior in corpus.user_priors] == ["segment", "age"]
    segments = engine.to_arrow(corpus.user_priors[0].table).to_pylist()
    assert {row["user_id"]: row["label"] for row in segments} == {"u0": "gold", "u9": "gold"}


@pytest.mark.slow
def test_rows_that_do_not_fit_the_catalogue_are_bad_rows(start, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,name\ni0,One\ni1,Two\ni1,Again\n,None\ni2,Three\n")
    options = _options(
        tmp_path, _log(str).encode(), items=str(tmp_path / "items.csv"), title="name"
    )
    with pytest.raises(UserError, match=r"items.csv, line 4: item_id must not repeat: 'i1'"):
        _load(options, start())

    rows, _, bad_rows = _load(options, start(), "drop")
    assert len(rows) == 3 * USERS
    assert bad_rows.dropped == {
        "items.csv: item_id must not repeat": 1,
        "items.csv: item_id must have a value": 1,
        "log.csv: item_id must be listed in items.csv": 2 * USERS,
    }


@pytest.mark.slow
def test_ids_are_text_in_all_tables_if_they_are_in_one(start, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,name\n0,a\n1,b\n2,c\n3,d\n4,e\nX5,f\n")
    options = _options(
        tmp_path, _log(str, item="{}").encode(), items=str(tmp_path / "items.csv"), title="name"
    )
    rows, _, _ = _load(options, start())
    assert rows["item_id"].type == pa.string()


@pytest.mark.slow
def test_a_folder_of_parquet_with_times_as_text_and_floats_as_ids(start, tmp_path):
    folder = tmp_path / "log"
    (folder / "2024").mkdir(parents=True)
    (folder / "_SUCCESS").touch()
    for part in range(2):
        pq.write_table(
            pa.table(
                {
                    "user_id": pa.array([1.0, None, 2.0], pa.float64()),
                    "item_id": pa.array(["a", "b", "c"]).dictionary_encode(),
                    "ts": pa.array([f"2024-03-0{part + 1}T00:00:00.5Z"] * 2 + ["?"]),
                }
            ),
            folder / "2024" / f"{part}.parquet",
        )
    options = TableOptions(table=str(folder), user="user_id", item="item_id", time="ts")
    rows, loaded, bad_rows = _load(options, start(), "drop")
    assert rows["user_id"].to_pylist() == [1, 1]
    assert rows["timestamp"].to_pylist() == [FIRST + 500, FIRST + 24 * HOUR + 500]
    assert bad_rows.dropped == {
        "0.parquet: ts is not a time (dates and times)": 1,
        "1.parquet: ts is not a time (dates and times)": 1,
        "2024/ (2 files): user_id must have a value": 2,
    }
    assert "2024/ (2 files): Parquet, 4 rows" in loaded.understood


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "factor"),
    [(pa.int64(), 1), (pa.timestamp("us", "Europe/Berlin"), 1000), (pa.float64(), 0.001)],
)
def test_parquet_times_of_any_type(kind, factor, start, tmp_path):
    times = pa.array([FIRST, FIRST + HOUR], pa.int64()).to_pandas() * factor
    values = pa.array(times.astype("int64")).cast(kind)
    pq.write_table(
        pa.table({"user_id": [1, 2], "item_id": [3, 4], "ts": values}), tmp_path / "log.parquet"
    )
    options = TableOptions(
        table=str(tmp_path / "log.parquet"), user="user_id", item="item_id", time="ts"
    )
    rows, _, _ = _load(options, start())
    assert rows["timestamp"].to_pylist() == [FIRST, FIRST + HOUR]


@pytest.mark.slow
def test_data_frames_give_what_files_give(tmp_path):
    pandas = pytest.importorskip("pandas")
    (tmp_path / "log.csv").write_text(_log(str))
    columns = {"user": "user_id", "item": "item_id", "time": "ts", "horizon": 1}
    of_file = prepare_table(tmp_path / "log.csv", tmp_path / "file", name="log", **columns)
    frame = pandas.read_csv(tmp_path / "log.csv")
    frame["ts"] = pandas.to_datetime(frame["ts"], unit="ms", utc=True)
    of_frame = prepare_table(frame, tmp_path / "frame", name="log", **columns)

    assert of_frame.manifest.content_sha256 == of_file.manifest.content_sha256
    assert of_file.manifest.counts["interactions"] == TOTAL
    assert list(tmp_path.glob(".frames*")) == []

    with pytest.raises(UserError, match="log has no column 'user': it has 'ts', 'user_id'"):
        prepare_table(frame, tmp_path / "x", user="user", item="item_id", time="ts")
    with pytest.raises(UserError, match="log is a dict: give a path, or a data frame"):
        prepare_table({}, tmp_path / "x", user="user", item="item_id", time="ts")
