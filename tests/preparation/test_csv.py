"""A comma-separated file is read one way, whatever else it holds; no good row is lost, no line wrongly numbered."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.raw import BadRows, read_csv, read_table

TYPES = {"a": pa.int64(), "b": pa.float64(), "c": pa.string()}


def _file(folder: Path, content: str | bytes) -> Path:
    file = folder / "log.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def _rows(file: Path, columns: dict[str, pa.DataType] = TYPES) -> tuple[list[tuple], int]:
    """(rows that are kept, number of those dropped)."""
    bad_rows = BadRows("drop")
    table = read_csv(file, columns, bad_rows)
    return list(zip(*table.to_pydict().values(), strict=True)), sum(bad_rows.dropped.values())


_integers = st.sampled_from(["1", "-20", " 7", "+5", "7 ", "1.0", "", "9" * 18, "9" * 19])
_numbers = st.sampled_from(
    [".99", "1.", "-.5e1", "2", "nan", "inf", "-inf", " 7", "+5", ".", "", "1e999", "0x1"]
)
_texts = st.sampled_from(["", "x", "é", "nan", "null", '"', "a,b", " ", "a 'b'"])
_lines = st.one_of(st.tuples(_integers, _numbers, _texts), st.sampled_from(["", "  "]))
_GARBAGE = [b"garbage", b"1,2,3,4,5", b"\xe9,1,,2", b"\xe9"]


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.lists(_lines, min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]))
@example([("1", ".99", ""), ("2", "3", "x")], "\n")
@example([("1", "nan", "x"), "", "  ", ("2", "inf", "x"), ("+5", "1", "x"), ("3", " 7", "x")], "\n")
def test_a_bad_line_elsewhere_changes_no_value_and_no_line(tmp_path_factory, lines, end):
    folder = tmp_path_factory.getbasetemp()
    quoted = [line if isinstance(line, str) else _joined(*line) for line in lines]
    content = end.join(["c,a,unused,b", *quoted, ""]).encode()
    rows, dropped = _rows(_file(folder, content))
    assert len(rows) + dropped == sum(not isinstance(line, str) for line in lines)
    for a, b, c, number in rows:
        assert (str(a), c) == (lines[number - 2][0], lines[number - 2][2])
        assert b == float(lines[number - 2][1])
    for garbage in _GARBAGE:
        assert _rows(_file(folder, content + garbage)) == (rows, dropped + 1)


def _joined(a: str, b: str, c: str) -> str:
    doubled = c.replace('"', '""')
    return f'"{doubled}",{a},?,{b}'


@pytest.mark.parametrize("tail", ["", "garbage\n"])
def test_numbers_without_a_leading_digit_are_numbers_and_nan_is_none(tail, tmp_path):
    file = _file(tmp_path, f"a,b\n1,.99\n2,3\n3,nan\n4,inf\n5,+5\n{tail}")
    assert _rows(file, {"b": pa.float64()}) == ([(0.99, 2), (3.0, 3)], 3 + bool(tail))
    with pytest.raises(UserError, match=r"log\.csv, line 4: b is not a number: 'nan'"):
        read_csv(_file(tmp_path, "a,b\n1,.99\n2,3\n3,nan\n"), {"b": pa.float64()}, BadRows())


def test_blank_lines_are_skipped_and_counted_and_empty_values_are_none_of_them(tmp_path):
    text = {"a": pa.string(), "b": pa.string()}
    assert _rows(_file(tmp_path, "a,b\n\n,\n  \n1,2\n\n"), text) == (
        [("", "", 3), ("1", "2", 5)],
        0,
    )
    assert _rows(_file(tmp_path, 'a\n\n""\n1\n\n'), {"a": pa.string()}) == ([("", 3), ("1", 4)], 0)


@pytest.mark.parametrize("content", ["a,b", "a,b\n", "\ufeffa,b\r\n", "a,b\n\n\n"])
def test_a_header_alone_has_no_rows(content, tmp_path):
    assert _rows(_file(tmp_path, content), {"b": pa.int64()}) == ([], 0)


@pytest.mark.parametrize("tail", ["", "garbage\n", "9,\udce9\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_break_in_a_value_that_is_read_is_a_bad_row_and_elsewhere_none(end, tail, tmp_path):
    content = f'a,b\n1,"one, line"\n\n2,"two{end}{end}lines ""x"""\n3,x\n{tail}'.encode(
        errors="surrogateescape"
    )
    file = _file(tmp_path, content)
    dropped = int(tail == "garbage\n")
    assert _rows(file, {"a": pa.int64()})[0][:3] == [(1, 2), (2, 4), (3, 7)]
    assert _rows(file, {"a": pa.int64()})[1] == dropped
    text = {"b": pa.string()}
    assert _rows(file, text) == ([("one, line", 2), ("x", 7)], 1 + bool(tail))
    if not tail:
        with pytest.raises(UserError, match=r"log\.csv, line 4: b has a line break: 'two"):
            read_csv(file, text, BadRows())


def test_rows_of_several_lines_wherever_a_block_of_arrow_ends(tmp_path):
    half = "".join(f"{row},some text\n" for row in range(100_000))
    file = _file(tmp_path, "a,b\n" + half + '1,"two\nlines"\n' + half)
    table = read_csv(file, {"a": pa.int64()}, BadRows())
    assert len(table) == 200_001
    assert table["line"].to_pylist()[-100_001:-99_999] == [100_002, 100_004]


WRONG_QUOTES = {
    "never closed": b'a,b\n1,x\n2,"open\n3,y\n',
    "closed by another's": b'a,b\n1,x\n2,"open\n3,y\n4,"closed"\n5,z\n',
    "closed inside of a word": b'a,b\n1,x\n2,"open\n3,y" z\n4,z\n',
    "never closed, in a file that is not UTF-8": b'a,b\n1,\xe9\n2,"open\n3,y\n',
}


@pytest.mark.parametrize("content", WRONG_QUOTES.values(), ids=WRONG_QUOTES)
@pytest.mark.parametrize("policy", ["refuse", "drop"])
def test_a_quote_that_would_swallow_rows_is_refused_by_its_line(content, policy, tmp_path):
    for columns in ({"a": pa.int64()}, {"a": pa.int64(), "b": pa.string()}):
        with pytest.raises(UserError, match=r"log\.csv, line 3: a quote that is not closed"):
            read_csv(_file(tmp_path, content), columns, BadRows(policy))


def test_a_quote_inside_of_a_word_is_a_character(tmp_path):
    file = _file(tmp_path, 'a,b\n1,5" disk\n2,x\n3,"two\nlines"\n4,6"\n5,7" x 9"\n')
    assert _rows(file, {"a": pa.int64()})[0] == [(1, 2), (2, 3), (3, 4), (4, 6), (5, 7)]
    assert _rows(file, {"b": pa.string()})[0] == [
        ('5" disk', 2),
        ("x", 3),
        ('6"', 6),
        ('7" x 9"', 7),
    ]


def test_a_value_longer_than_a_block_of_arrow_and_a_header_of_two_lines(tmp_path):
    long = "x" * 3_000_000
    file = _file(tmp_path, f'"a","two\nlines"\n{long},"1\n2"\ny,3\n')
    assert _rows(file, {"a": pa.string()}) == ([(long, 3), ("y", 5)], 0)


def test_a_column_that_stands_twice_is_named(tmp_path):
    with pytest.raises(UserError, match=r"log\.csv has 2 columns a: rename all but one"):
        read_csv(_file(tmp_path, "a,b,a\n1,2,3\n"), {"a": pa.int64()}, BadRows())


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint8(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
)
def test_every_integer_of_a_type_is_read_and_none_beyond(kind, tmp_path):
    bits = kind.bit_width
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if pa.types.is_signed_integer(kind)
        else (0, 2**bits - 1)
    )
    texts = [
        str(low),
        str(high),
        f"{0:030}",
        f"{7:030}",
        "-0",
        "007",
        str(low - 1),
        str(high + 1),
        "9" * 40,
    ]
    file = _file(tmp_path, "a\n" + "\n".join(texts) + "\n")
    assert _rows(file, {"a": kind}) == ([(low, 2), (high, 3), (0, 4), (7, 5), (0, 6), (7, 7)], 3)
    with pytest.raises(
        UserError, match=rf"line 8: a is beyond the integers of {bits} bits: '{low - 1}'"
    ):
        read_csv(file, {"a": kind}, BadRows())


def test_a_missing_column_is_named_beside_those_that_are_there(tmp_path):
    for header, found in (("a,b,c", "a, b, c"), ("customer;b;c", "customer;b;c")):
        with pytest.raises(
            UserError, match=rf"log\.csv has no column customer \(it has {found}\)$"
        ):
            read_csv(_file(tmp_path, f"{header}\n1,2,3\n"), {"customer": pa.string()}, BadRows())


@pytest.mark.parametrize("kind", [pa.timestamp("ms"), pa.bool_(), pa.date32()])
@pytest.mark.parametrize("content", ["a,b\n1,2\n", "a,b\nx\n"])
def test_a_type_that_is_not_read_is_refused_on_any_file(content, kind, tmp_path):
    file = _file(tmp_path, content)
    with pytest.raises(
        UserError,
        match="read_csv reads text, integers and floats: read times as text and cast them",
    ):
        read_csv(file, {"a": kind}, BadRows())
    with pytest.raises(UserError, match="read_table reads text, integers and floats"):
        read_table(file, ",", {"a": kind, "b": pa.string()}, BadRows())


def test_columns_and_values_beyond_ascii_are_found_beside_a_line_that_is_no_text(tmp_path):
    file = _file(tmp_path, "größe,b\né,1\n".encode() + b"\xe9,2\n")
    assert _rows(file, {"größe": pa.string()}) == ([("é", 2)], 1)


def test_unsigned_integers_have_their_own_range(tmp_path):
    assert _rows(_file(tmp_path, "a\n255\n-1\n256\n"), {"a": pa.uint8()}) == ([(255, 2)], 2)
