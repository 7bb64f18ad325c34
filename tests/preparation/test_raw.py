"""Raw files are read exactly; a row that cannot be read is named by file and line, or dropped and counted."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_movielens import Rating, read_ratings, write_movielens, write_ratings

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus, find_corpus
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.raw import BadRows, read_table

TYPES = {"user": pa.int64(), "stars": pa.int8(), "word": pa.string()}


def _file(folder: Path, content: str | bytes, name: str = "log.csv") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_fields_get_their_types_and_rows_their_lines(tmp_path):
    columns = {**TYPES, "weight": pa.float64()}
    table = read_table(_file(tmp_path, "1,5,a b,0.5\n-20,-3,,1e3\n"), ",", columns, BadRows())
    assert table.schema == pa.schema({**columns, "line": pa.int64()})
    assert table.to_pylist() == [
        {"user": 1, "stars": 5, "word": "a b", "weight": 0.5, "line": 1},
        {"user": -20, "stars": -3, "word": "", "weight": 1000.0, "line": 2},
    ]


@pytest.mark.parametrize("separator", [",", "\t", "|", "::", ", ", "$.^"])
def test_separators_of_any_length_are_taken_as_they_are(separator, tmp_path):
    file = _file(tmp_path, f"1{separator}2{separator}a\n3{separator}4{separator}b\n")
    assert read_table(file, separator, TYPES, BadRows()).to_pydict() == {
        "user": [1, 3],
        "stars": [2, 4],
        "word": ["a", "b"],
        "line": [1, 2],
    }


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False], ids=["last line ended", "last line not ended"])
def test_line_ends_of_both_kinds_and_none_at_the_end(end, last, tmp_path):
    file = _file(tmp_path, end.join(["1,1,a", "2,2,b"]) + (end if last else ""))
    assert read_table(file, ",", TYPES, BadRows())["word"].to_pylist() == ["a", "b"]


def test_quotes_backslashes_and_the_word_null_are_text_like_any_other(tmp_path):
    words = ['"', 'a "quoted" word', "back\\slash", "null", "NA", "nan"]
    file = _file(tmp_path, "".join(f"1,1,{word}\n" for word in words))
    assert read_table(file, ",", TYPES, BadRows())["word"].to_pylist() == words


def test_blank_lines_are_skipped_and_counted(tmp_path):
    table = read_table(_file(tmp_path, "\n1,1,a\n\n   \n2,2,b\n\n"), ",", TYPES, BadRows())
    assert table["line"].to_pylist() == [2, 5]
    with pytest.raises(UserError, match="line 4: user is not an integer"):
        read_table(_file(tmp_path, "\n1,1,a\n\nx,2,b\n"), ",", TYPES, BadRows())


def test_latin_1_files_are_read_in_their_encoding(tmp_path):
    file = _file(tmp_path, "1,1,Misérables\n2,2,plain\n".encode("latin-1"))
    table = read_table(file, ",", TYPES, BadRows(), encoding="latin-1")
    assert table["word"].to_pylist() == ["Misérables", "plain"]


def test_control_characters_are_text_like_any_other(tmp_path):
    table = read_table(_file(tmp_path, "1,1,a\x01b\n2,2,\x02\n"), ",", TYPES, BadRows())
    assert table["word"].to_pylist() == ["a\x01b", "\x02"]


def test_a_line_that_is_not_of_the_encoding_is_refused_by_its_number(tmp_path):
    with pytest.raises(UserError, match=r"log\.csv, line 2: "):
        read_table(
            _file(tmp_path, b"1,1,good\n2,2,Mis\xe9rables\n3,3,good\n"), ",", TYPES, BadRows()
        )


def test_a_line_that_is_not_of_the_encoding_can_be_dropped(tmp_path):
    bad_rows = BadRows("drop")
    table = read_table(
        _file(tmp_path, b"1,1,good\n2,2,Mis\xe9rables\n3,3,good\n"), ",", TYPES, bad_rows
    )
    assert table["line"].to_pylist() == [1, 3]
    assert sum(bad_rows.dropped.values()) == 1


@pytest.mark.parametrize(
    ("encoding", "bad"), [("utf-8", b"\xe9"), ("UTF-8", b"\xe9"), ("cp1252", b"\x81")]
)
def test_encodings_have_bad_lines_by_whatever_name_they_go(encoding, bad, tmp_path):
    with pytest.raises(UserError, match=r"log\.csv"):
        read_table(
            _file(tmp_path, b"1,1,good\n2,2," + bad + b"\n"),
            ",",
            TYPES,
            BadRows(),
            encoding=encoding,
        )


def test_an_empty_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"log\.csv is empty"):
        read_table(_file(tmp_path, ""), ",", TYPES, BadRows())


def test_a_file_of_blank_lines_has_no_rows(tmp_path):
    assert read_table(_file(tmp_path, "\n\n \n"), ",", TYPES, BadRows()).num_rows == 0


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("1,2", "2 fields where 3 are expected: '1,2'"),
        ("1,2,a,b", "4 fields where 3 are expected: '1,2,a,b'"),
        ("x,2,a", "user is not an integer: 'x'"),
        (",2,a", "user is not an integer: ''"),
        ("1.5,2,a", "user is not an integer: '1.5'"),
        (" 1,2,a", "user is not an integer: ' 1'"),
        ("\u0661,2,a", "user is not an integer: '\u0661'"),
        (
            "9223372036854775808,2,a",
            "user is beyond the integers of 64 bits: '9223372036854775808'",
        ),
        ("1,128,a", "stars is beyond the integers of 8 bits: '128'"),
        ("1,-129,a", "stars is beyond the integers of 8 bits: '-129'"),
    ],
)
def test_a_bad_row_is_refused_by_file_and_line_or_dropped_and_counted(line, mistake, tmp_path):
    file = _file(tmp_path, f"1,1,a\n\n{line}\n2,2,b\n{line}\n")
    with pytest.raises(UserError) as caught:
        read_table(file, ",", TYPES, BadRows())
    assert (
        str(caught.value) == f"{file}, line 3: {mistake} (--on-bad-row drop leaves such rows out)"
    )

    bad_rows = BadRows("drop")
    assert read_table(file, ",", TYPES, bad_rows)["line"].to_pylist() == [1, 4]
    reason = "wrong number of fields" if "fields" in mistake else mistake.split(":")[0]
    assert bad_rows.dropped == {f"log.csv: {reason}": 2}


@pytest.mark.parametrize("number", ["one", "1,0", "0x1", "1e", "--1", "nan"])
def test_a_number_that_is_none_is_refused_by_line(number, tmp_path):
    with pytest.raises(UserError, match=r"log\.csv, line 2: weight is not a number"):
        read_table(_file(tmp_path, f"1.\n{number}\n"), ";", {"weight": pa.float64()}, BadRows())


def test_a_number_beyond_the_largest_is_refused_not_infinite(tmp_path):
    with pytest.raises(UserError, match=r"log\.csv, line 2: weight is not a number"):
        read_table(_file(tmp_path, "1\n1e999\n"), ";", {"weight": pa.float64()}, BadRows())


@pytest.mark.parametrize(
    "line",
    ["1,1," + "long," * 1000, "x" * 1000 + ",1,a", "\udce9" * 1000],
    ids=["fields", "integer", "encoding"],
)
def test_one_message_is_one_line_of_bearable_length(line, tmp_path):
    with pytest.raises(UserError) as caught:
        read_table(_file(tmp_path, line.encode(errors="surrogateescape")), ",", TYPES, BadRows())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) - len(str(tmp_path)) < 200


_fields = st.sampled_from(
    ["1", "-7", "127", "128", "300", "", "x", "1.5", "9" * 18, "9" * 19, "é", " "]
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(_fields, max_size=4), min_size=1, max_size=8))
@example([["1", "1", "x"], [], ["1"], ["128", "128", "1"]])
def test_exactly_the_good_rows_are_kept_and_every_other_is_counted(tmp_path_factory, rows):
    lines = [",".join(row) for row in rows]
    file = _file(tmp_path_factory.getbasetemp(), "\n".join(lines) + "\n", "property.csv")

    good, bad = [], 0
    for number, line in enumerate(lines, 1):
        fields = line.split(",")
        if line.strip() == "":
            continue
        integers = [re.fullmatch("-?[0-9]{1,18}", field) is not None for field in fields]
        if len(fields) == 3 and integers[0] and integers[1] and -128 <= int(fields[1]) < 128:
            good.append((int(fields[0]), int(fields[1]), fields[2], number))
        else:
            bad += 1

    bad_rows = BadRows("drop")
    table = read_table(file, ",", TYPES, bad_rows)
    assert list(zip(*table.to_pydict().values(), strict=True)) == good
    assert sum(bad_rows.dropped.values()) == bad
    if bad:
        with pytest.raises(UserError, match=r"property\.csv, line \d+: "):
            read_table(file, ",", TYPES, BadRows())


@pytest.fixture
def raw(tmp_path):
    """Raw MovieLens files that a test may change."""
    return write_movielens(tmp_path / "raw", users=12, items=30, longest=25, seed=1)


def _load(raw: Path, policy: str = "refuse") -> tuple[Corpus, BadRows]:
    bad_rows = BadRows(policy)
    return find_corpus("movielens").load(raw, bad_rows), bad_rows


def _insert(file: Path, number: int, line: str) -> None:
    """Makes `line` the line of this number."""
    lines = file.read_text(encoding="latin-1").splitlines()
    lines.insert(number - 1, line)
    file.write_text("\n".join(lines) + "\n", encoding="latin-1")


_FLAGS = "|".join(["0"] * 18)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line", "mistake", "reason"),
    [
        (
            "u.data",
            "1\t2\t3",
            "3 fields where 4 are expected: '1\\t2\\t3'",
            "wrong number of fields",
        ),
        ("u.data", "1\tx\t3\t4", "item_id is not an integer: 'x'", "item_id is not an integer"),
        (
            "u.data",
            "1\t2\t0\t4",
            "rating must be 1 to 5 in steps of 1: '0.0'",
            "rating must be 1 to 5 in steps of 1",
        ),
        (
            "u.data",
            "1\t2\t6\t4",
            "rating must be 1 to 5 in steps of 1: '6.0'",
            "rating must be 1 to 5 in steps of 1",
        ),
        (
            "u.data",
            "1\t31\t3\t4",
            "item_id must be listed in u.item: '31'",
            "item_id must be listed in u.item",
        ),
        (
            "u.data",
            "13\t2\t3\t4",
            "user_id must be listed in u.user: '13'",
            "user_id must be listed in u.user",
        ),
        (
            "u.item",
            f"31|T||||2|{_FLAGS}",
            "flag:unknown must be 0 or 1: '2'",
            "flag:unknown must be 0 or 1",
        ),
        ("u.item", f"1|T||||0|{_FLAGS}", "item_id must not repeat: '1'", "item_id must not repeat"),
        (
            "u.user",
            "13|-1|F|other|0",
            "years must not be negative: '-1'",
            "years must not be negative",
        ),
        ("u.user", "1|20|F|other|0", "user_id must not repeat: '1'", "user_id must not repeat"),
        (
            "u.user",
            "13|20|F|pope|0",
            "occupation must be listed in u.occupation: 'pope'",
            "occupation must be listed in u.occupation",
        ),
    ],
)
def test_bad_rows_of_movielens_are_refused_by_file_and_line_or_dropped(
    name, line, mistake, reason, raw
):
    whole = _load(raw)[0]
    _insert(raw / name, 9, line)
    with pytest.raises(UserError) as caught:
        _load(raw)
    assert (
        str(caught.value)
        == f"{raw / name}, line 9: {mistake} (--on-bad-row drop leaves such rows out)"
    )

    corpus, bad_rows = _load(raw, "drop")
    assert bad_rows.dropped == {f"{name}: {reason}": 1}
    assert (
        corpus.interactions.drop("order")
        .execute()
        .equals(whole.interactions.drop("order").execute())
    )
    assert corpus.items.execute().equals(whole.items.execute())


def test_dropping_a_film_drops_its_ratings_and_counts_them(raw):
    ratings = read_ratings(raw)
    film = ratings[0].film
    lines = (raw / "u.item").read_text(encoding="latin-1").splitlines()
    lines[film - 1] = f"{film}|no more fields"
    (raw / "u.item").write_text("\n".join(lines), encoding="latin-1")
    corpus, bad_rows = _load(raw, "drop")
    lost = sum(rating.film == film for rating in ratings)
    assert bad_rows.dropped == {
        "u.item: wrong number of fields": 1,
        "u.data: item_id must be listed in u.item": lost,
    }
    assert int(corpus.interactions.count().execute()) == len(ratings) - lost


@pytest.mark.slow
def test_dropped_rows_are_counted_in_the_manifest(raw, tmp_path):
    _insert(raw / "u.data", 3, "1\t1\t9\t4")
    _insert(raw / "u.data", 5, "nonsense")
    with pytest.raises(UserError, match=r"u\.data, line 5"):
        prepare(Settings("movielens", raw, 8), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()
    manifest = prepare(Settings("movielens", raw, 8, on_bad_row="drop"), tmp_path / "prepared")
    assert manifest.counts["dropped"]["u.data: rating must be 1 to 5 in steps of 1"] == 1
    assert manifest.counts["dropped"]["u.data: wrong number of fields"] == 1
    assert manifest.settings["on_bad_row"] == "drop"


def test_times_too_large_for_milliseconds_are_refused_not_wrapped(raw):
    ratings = read_ratings(raw)
    write_ratings(raw, [*ratings, Rating(1, 1, 3, 10**17)])
    with pytest.raises(UserError, match=rf"u\.data, line {len(ratings) + 1}: "):
        _load(raw)


def test_titles_in_latin_1_come_out_whole(raw):
    assert set(_load(raw)[0].items.title.execute()) == {
        f"Café {film} (1997)" for film in range(1, 31)
    }


@pytest.mark.parametrize("name", ["u.data", "u.item", "u.user"])
def test_an_empty_raw_file_is_named(name, raw):
    (raw / name).write_bytes(b"")
    with pytest.raises(UserError, match=re.escape(f"{raw / name} is empty")):
        _load(raw)


def test_genre_files_that_do_not_fit_are_refused(raw):
    (raw / "u.genre").write_text("Action|0\nDrama|1\n")
    with pytest.raises(
        UserError, match=r"u\.genre numbers 2 genres where u\.item has flags for 19"
    ):
        _load(raw)
