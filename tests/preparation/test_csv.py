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


_integers = st.sampled_from(["1", "-20", " 7", "+5", "7 ", "1.0", "", "9" * 19])
_numbers = st.sampled_from([".99", "1.", "-.5e1", "2", "nan", "inf", "-inf", " 7", "+5", ".", "", "1e999", "0x1"])
_texts = st.sampled_from(["", "x", "é", "nan", "null", '"', "a,b", " ", "a 'b'"])
_lines = st.one_of(st.tuples(_integers, _numbers, _texts), st.sampled_from(["", "  "]))
_GARBAGE = [b"garbage", b"1,2,3,4,5", b"\xe9,1,,2", b"\xe9"]


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
    with pytest.raises(UserError, match=r"log\.csv, line 4: b is no number: 'nan'"):
        read_csv(_file(tmp_path, "a,b\n1,.99\n2,3\n3,nan\n"), {"b": pa.float64()}, BadRows())


def test_blank_lines_are_skipped_and_counted_and_empty_values_are_none_of_them(tmp_path):
    text = {"a": pa.string(), "b": pa.string()}
    assert _rows(_file(tmp_path, "a,b\n\n,\n  \n1,2\n\n"), text) == ([("", "", 3), ("1", "2", 5)], 0)
    assert _rows(_file(tmp_path, 'a\n\n""\n1\n\n'), {"a": pa.string()}) == ([("", 3), ("1", 4)], 0)


@pytest.mark.parametrize("content", ["a,b", "a,b\n", "\ufeffa,b\r\n", "a,b\n\n\n"])
def test_a_header_alone_has_no_rows(content, tmp_path):
    assert _rows(_file(tmp_path, content), {"b": pa.int64()}) == ([], 0)


@pytest.mark.parametrize("policy", ["refuse", "drop"])
@pytest.mark.parametrize("tail", ["", "garbage\n", "9,\udce9\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_value_with_a_line_break_is_refused_by_its_line(end, tail, policy, tmp_path):
    content = f'a,b\n1,"one, line"\n\n2,"two{end}lines"\n3,x\n{tail}'.encode(errors="surrogateescape")
    with pytest.raises(UserError, match=r"log\.csv, line 4: a value with a line break"):
        read_csv(_file(tmp_path, content), {"a": pa.int64()}, BadRows(policy))


def test_line_breaks_are_seen_wherever_a_block_ends(tmp_path):
    """Arrow reads blocks of a mebibyte; a quote that is never closed runs through all of them."""
    half = "".join(f"{row},some text\n" for row in range(100_000))
    for broken in ('1,"two\nlines"\n', '1,"open\n'):
        with pytest.raises(UserError, match=r"log\.csv, line 100002: a value with a line break"):
            read_csv(_file(tmp_path, "a,b\n" + half + broken + half), {"a": pa.int64()}, BadRows())


def test_a_missing_column_is_named_beside_those_that_are_there(tmp_path):
    for header, found in (("a,b,c", "a, b, c"), ("customer;b;c", "customer;b;c")):
        with pytest.raises(UserError, match=rf"log\.csv has no column customer \(it has {found}\)$"):
            read_csv(_file(tmp_path, f"{header}\n1,2,3\n"), {"customer": pa.string()}, BadRows())


@pytest.mark.parametrize("kind", [pa.timestamp("ms"), pa.bool_(), pa.date32()])
@pytest.mark.parametrize("content", ["a,b\n1,2\n", "a,b\nx\n"])
def test_a_type_that_is_not_read_is_refused_on_any_file(content, kind, tmp_path):
    file = _file(tmp_path, content)
    with pytest.raises(UserError, match="read_csv reads text, integers and floats: read times as text and cast them"):
        read_csv(file, {"a": kind}, BadRows())
    with pytest.raises(UserError, match="read_table reads text, integers and floats"):
        read_table(file, ",", {"a": kind, "b": pa.string()}, BadRows())


def test_columns_and_values_beyond_ascii_are_found_beside_a_line_that_is_no_text(tmp_path):
    file = _file(tmp_path, "größe,b\né,1\n".encode() + b"\xe9,2\n")
    assert _rows(file, {"größe": pa.string()}) == ([("é", 2)], 1)


def test_unsigned_integers_have_their_own_range(tmp_path):
    assert _rows(_file(tmp_path, "a\n255\n-1\n256\n"), {"a": pa.uint8()}) == ([(255, 2)], 2)
