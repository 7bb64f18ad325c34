"""A CSV file read block by block gives the rows, lines and mistakes of one that is read whole."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.bad_rows import BadRows
from torchrec_priors.preparation.csv_file import read_csv, read_csv_blocks

COLUMNS = {"n": pa.int64(), "text": pa.string()}

lines = st.one_of(
    st.builds(lambda n, text: f'{n},"{text}"'.encode(), st.integers(0, 999), st.text("ab ,é", max_size=5)),
    st.sampled_from([b"", b"  ", b"1", b"1,2,3", b"x,y", b"5,\xff\xfe", b'6,"a""b"']),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(lines, max_size=12), st.integers(1, 40), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_blocks_give_what_the_whole_gives(tmp_path_factory, rows, block, end, last):
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    file.write_bytes(end.join([b"n,text", *rows]) + (end if last else b""))
    whole, parts = BadRows("drop"), BadRows("drop")
    expected = read_csv(file, COLUMNS, whole)
    found = pa.concat_tables(read_csv_blocks(file, COLUMNS, parts, block))
    assert found.to_pylist() == expected.to_pylist()
    assert parts.dropped == whole.dropped


@pytest.mark.parametrize("block", [8, 1 << 20])
def test_a_value_with_a_line_break_is_refused_wherever_a_block_ends(tmp_path, block):
    (tmp_path / "a.csv").write_bytes(b'n,text\n1,a\n2,"b\nc"\n3,d\n')
    with pytest.raises(UserError, match=r"a\.csv, line 3: a value with a line break"):
        list(read_csv_blocks(tmp_path / "a.csv", COLUMNS, BadRows("drop"), block))
