"""No bit of a Parquet file of ours can change without being noticed, or without mattering."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.parquet import (
    DamagedParquetError,
    ParquetReader,
    ParquetWriter,
    read_footer,
    read_schema,
    read_table,
    readable,
    write_table,
)

TABLE = pa.table(
    {
        "user_id": pa.array(["a", "b", None, "d", "ü"]),
        "items": pa.array(
            [[1, 2], [], [3], [4, 4, 4], [5]], pa.list_(pa.field("element", pa.int32()))
        ),
        "score": pa.array([0.5, None, 1.5, 2.5, 3.5]),
        "vector": pa.array([[1.0, 2.0]] * 5, pa.list_(pa.field("element", pa.float32()), 2)),
    }
)


@pytest.fixture
def file(tmp_path):
    write_table(TABLE, tmp_path / "table.parquet", row_group_size=2)
    return tmp_path / "table.parquet"


def _read(file):
    """By every way of reading."""
    with ParquetReader(file) as opened:
        groups = [
            opened.read_row_group(group, use_threads=False) for group in range(opened.row_groups)
        ]
        batches = list(opened.iter_batches(3))
        schema = opened.schema
    return (
        read_table(file),
        pa.concat_tables(groups),
        pa.Table.from_batches(batches),
        schema,
        read_schema(file),
    )


def test_what_is_written_is_what_is_read(file):
    whole, groups, batches, schema, of_file = _read(file)
    assert whole.equals(TABLE, check_metadata=True)
    assert groups.equals(TABLE)
    assert batches.cast(TABLE.schema).equals(TABLE)
    assert schema.equals(TABLE.schema, check_metadata=True)
    assert of_file.equals(TABLE.schema, check_metadata=True)
    assert read_table(file, ["items"]).equals(TABLE.select(["items"]))


def test_other_programs_read_it_and_find_checksums_of_pages(file):
    assert pq.read_table(file, page_checksum_verification=True).equals(TABLE)
    chunk = pq.read_metadata(file).row_group(0).column(0)
    content = bytearray(file.read_bytes())
    content[chunk.dictionary_page_offset + chunk.total_compressed_size - 1] ^= 1
    file.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(file, page_checksum_verification=True).read_row_group(0, ["user_id"])


@pytest.mark.slow
def test_no_bit_changes_unnoticed(file, tmp_path):
    content = file.read_bytes()
    damaged, unnoticed = tmp_path / "damaged.parquet", []
    random = np.random.default_rng(0)
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        damaged.write_bytes(changed)
        try:
            found = read_table(damaged)
        except (pa.ArrowException, OSError):
            continue
        unnoticed.append(place)
        assert found.equals(TABLE), f"byte {place} changed the table"
    assert len(unnoticed) < 20, "only the first four bytes and the name of the checksums may change"


def test_a_file_cut_anywhere_is_no_file(file, tmp_path):
    content = file.read_bytes()
    for length in range(0, len(content), 13):
        (tmp_path / "cut.parquet").write_bytes(content[:length])
        with pytest.raises((DamagedParquetError, pa.ArrowInvalid)):
            read_table(tmp_path / "cut.parquet")


def test_a_row_group_is_checked_when_it_is_read(file):
    last = pq.read_metadata(file).row_group(2).column(1)
    content = bytearray(file.read_bytes())
    content[last.data_page_offset + 2] ^= 4  # in the header of a page
    file.write_bytes(content)
    with ParquetReader(file) as opened:
        assert opened.read_row_group(1).equals(TABLE.slice(2, 2))
        assert opened.read_row_group(2, ["user_id"])["user_id"].to_pylist() == ["ü"]
        with pytest.raises(
            DamagedParquetError, match="column 'items' of row group 2 does not match its checksum"
        ):
            opened.read_row_group(2, ["items"])
        with pytest.raises(DamagedParquetError):
            list(opened.iter_batches(100))


def test_another_file_in_its_place_has_another_footer(file, tmp_path):
    noted = read_footer(file).sha256
    assert read_footer(file, noted).sha256 == noted
    write_table(TABLE.slice(1), file, row_group_size=2)
    with pytest.raises(DamagedParquetError, match="footer does not match its checksum"):
        read_footer(file, noted)


def test_what_is_read_is_written_again_with_its_own_checksums(file, tmp_path):
    again = tmp_path / "again.parquet"
    with ParquetReader(file) as opened, ParquetWriter(again, opened.schema) as writer:
        for group in range(opened.row_groups):
            writer.write_table(opened.read_row_group(group), row_group_size=2)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("size", [1, 2, 100])
def test_any_number_of_rows_and_row_groups(rows, size, tmp_path):
    write_table(TABLE.slice(0, rows), tmp_path / "file.parquet", row_group_size=size)
    assert read_table(tmp_path / "file.parquet").equals(TABLE.slice(0, rows))
    with ParquetWriter(tmp_path / "none.parquet", TABLE.schema):
        pass
    assert read_table(tmp_path / "none.parquet").equals(TABLE.slice(0, 0))


def test_what_others_make_of_our_files_is_read(file, tmp_path):
    """Arrow writes again what it found beside the schema, our checksums among it."""
    pq.write_table(pq.read_table(file).slice(1), tmp_path / "theirs.parquet")
    assert read_table(tmp_path / "theirs.parquet").equals(TABLE.slice(1))
    assert read_footer(tmp_path / "theirs.parquet").chunks is None


def test_files_of_others_are_read(tmp_path):
    pq.write_table(TABLE, tmp_path / "theirs.parquet", row_group_size=2)
    assert read_table(tmp_path / "theirs.parquet").equals(TABLE)
    assert read_footer(tmp_path / "theirs.parquet").chunks is None


def test_a_writer_that_fails_gives_no_checksums(tmp_path):
    def fail(file):
        with ParquetWriter(file, TABLE.schema) as writer:
            writer.write_table(TABLE)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(tmp_path / "file.parquet")
    assert read_footer(tmp_path / "file.parquet").chunks is None


def test_messages_name_the_file_and_the_remedy(file):
    file.write_bytes(file.read_bytes()[-40:])
    expected = r"table.parquet' cannot be read \(its footer is truncated\): try again"
    with pytest.raises(UserError, match=expected), readable(file, "try again"):
        read_table(file)
    file.unlink()
    with (
        pytest.raises(UserError, match=r"table.parquet' is missing: try again"),
        readable(file, "try again"),
    ):
        read_table(file)
