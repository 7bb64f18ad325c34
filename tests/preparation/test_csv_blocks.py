"""A CSV file read block by block gives the rows, lines and mistakes of one that is read whole."""

import csv

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.raw import csv_file
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.csv_file import read_csv, read_csv_blocks

COLUMNS = {"n": pa.int64(), "text": pa.string()}

lines = st.one_of(
    st.builds(
        lambda n, text: f'{n},"{text}"'.encode(), st.integers(0, 999), st.text("ab ,é", max_size=5)
    ),
    st.sampled_from([b"", b"  ", b"1", b"1,2,3", b"x,y", b"5,\xff\xfe", b'6,"a""b"']),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    st.lists(lines, max_size=12),
    st.integers(1, 40),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
)
def test_blocks_give_what_the_whole_gives(tmp_path_factory, rows, block, end, last):
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    file.write_bytes(end.join([b"n,text", *rows]) + (end if last else b""))
    whole, parts = BadRows("drop"), BadRows("drop")
    expected = read_csv(file, COLUMNS, whole)
    found = pa.concat_tables(read_csv_blocks(file, COLUMNS, parts, block))
    assert found.to_pylist() == expected.to_pylist()
    assert parts.dropped == whole.dropped


broken_lines = st.one_of(
    st.builds(
        lambda n, text: f'{n},"{text}"'.encode(),
        st.integers(0, 999),
        st.text("ab ,\n\r", max_size=8),
    ),
    st.sampled_from([b"", b"  ", b"1", b"1,2,3", b'6,"a""b"', b'6,"a""\n""b"', b'7,8" disk']),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(
    st.lists(broken_lines, max_size=12),
    st.integers(1, 40),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
)
def test_rows_of_several_lines_have_the_lines_that_a_row_by_row_reader_gives(
    tmp_path_factory, rows, block, end, last
):
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    file.write_bytes(end.join([b"n,text", *rows]) + (end if last else b""))
    with file.open(newline="") as lines:
        reader = csv.reader(lines)
        expected, line = [], 0
        for row in reader:
            if line and len(row) == 2:
                expected.append((int(row[0]), line + 1))
            line = reader.line_num
    numbers = {"n": pa.int64()}
    for table in (
        read_csv(file, numbers, BadRows("drop")),
        pa.concat_tables(read_csv_blocks(file, numbers, BadRows("drop"), block)),
    ):
        assert list(zip(*table.to_pydict().values(), strict=True)) == expected


@pytest.mark.parametrize("block", [8, 1 << 20])
def test_a_line_break_and_an_open_quote_are_named_wherever_a_block_ends(tmp_path, block):
    (tmp_path / "a.csv").write_bytes(b'n,text\n1,a\n2,"b\nc"\n3,d\n')
    with pytest.raises(UserError, match=r"a\.csv, line 3: text has a line break: 'b\\nc'"):
        list(read_csv_blocks(tmp_path / "a.csv", COLUMNS, BadRows(), block))
    (tmp_path / "a.csv").write_bytes(b'n,text\n1,a\n2,"b\n3,d\n4,e\n')
    with pytest.raises(UserError, match=r"a\.csv, line 3: a quote that is not closed"):
        list(read_csv_blocks(tmp_path / "a.csv", COLUMNS, BadRows("drop"), block))


def test_an_open_quote_is_refused_before_the_whole_file_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "_LONGEST_ROW", 1000)
    (tmp_path / "a.csv").write_bytes(b'n,text\n1,a\n2,"b\n' + b"3,d\n" * 1000)
    blocks = read_csv_blocks(tmp_path / "a.csv", {"n": pa.int64()}, BadRows("drop"), 100)
    assert next(blocks)["line"].to_pylist() == [2]
    with pytest.raises(UserError, match=r"a\.csv, line 3: a quote that is not closed"):
        next(blocks)
