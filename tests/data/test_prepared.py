"""Reading the sequences of a prepared data set: lengths for little, damage in one line."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_priors.data.windows import WindowStream
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import describe
from torchrec_priors.prepared.sequences import Sequences


@pytest.fixture
def copied(small_data, tmp_path):
    """A data set that a test may damage, opened."""
    shutil.copytree(small_data, tmp_path / "data")
    return PreparedData(tmp_path / "data")


def _rewrite(data: PreparedData, change, **how) -> PreparedData:
    """The data set with every row group of its sequences changed, opened anew; the manifest says so."""
    for file in {group.file for group in data.row_groups}:
        opened = pq.ParquetFile(file)
        tables = [change(opened.read_row_group(index)) for index in range(opened.num_row_groups)]
        with pq.ParquetWriter(file, tables[0].schema, **how) as writer:
            for table in tables:
                writer.write_table(table)
    paths = [data.folder / info.path for info in data.manifest.files]
    files, content = describe(data.folder, paths)
    replace(data.manifest, files=files, content_sha256=content).write(data.folder)
    return PreparedData(data.folder)


def _batches(data: PreparedData, **how):
    return iter(
        WindowStream(data, context=10, horizon=4, batch=16, seed=0, shuffled_row_groups=2, **how)
    )


def test_lengths_are_those_of_the_histories_and_read_from_the_smallest_lists(copied, monkeypatch):
    expected = [
        length for group in copied.row_groups for length in copied.read_users(group).lengths
    ]
    asked = []
    read = Sequences.table
    monkeypatch.setattr(Sequences, "table", lambda *given: asked.append(given[2]) or read(*given))
    assert copied.lengths.tolist() == expected
    assert copied.lengths.dtype == np.int32
    assert asked == [["events"]] * len(copied.row_groups)


def test_lengths_come_from_their_column_where_there_is_one(copied, monkeypatch):
    expected = copied.lengths
    data = _rewrite(
        copied,
        lambda table: table.append_column("length", pa.compute.list_value_length(table["items"])),
    )
    monkeypatch.setattr(Sequences, "lists", None)
    assert np.array_equal(data.lengths, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_is_cut_or_gone_while_training_is_one_line_with_its_name(copied, workers):
    file = copied.row_groups[0].file
    whole = file.read_bytes()
    copied.lengths  # noqa: B018
    file.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(
        UserError, match=rf"^{file} cannot be read \([^\n]+\): prepare the data set again$"
    ):
        list(zip(range(1000), _batches(copied, workers=workers), strict=False))
    file.unlink()
    with pytest.raises(
        UserError, match=rf"^{file} cannot be read \([^\n]+\): prepare the data set again$"
    ):
        list(zip(range(1000), _batches(copied, workers=workers), strict=False))


def test_a_wrong_byte_is_found_where_pages_have_checksums(copied):
    """One line that names the file, or the values it held; without checksums, other values may come out."""
    data = _rewrite(copied, lambda table: table, write_page_checksum=True)
    file, group = data.row_groups[0].file, data.row_groups[0]
    whole, expected = file.read_bytes(), data.read_users(group)
    refused = []
    column = pq.read_metadata(file).row_group(group.index).column(1)
    assert column.path_in_schema == "items.list.element"
    for place in np.random.default_rng(0).integers(0, column.total_compressed_size, 40).tolist():
        place += column.dictionary_page_offset
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = data.read_users(group)
        except UserError as error:
            refused.append(str(error))
        else:
            assert np.array_equal(found.items, expected.items)
    assert len(refused) > 20
    assert all(str(file) in message and "\n" not in message for message in refused)


def test_histories_of_other_lengths_than_were_counted_are_refused(copied):
    group = copied.row_groups[0]
    places = {"items": np.empty(int(copied.lengths[: group.users].sum()), np.int32)}
    copied.read_into(group, places)
    copied.lengths[3:5] += np.array([1, -1], np.int32)
    with pytest.raises(
        UserError, match=f"^{group.file} is not as it was when training began: prepare the data set"
    ):
        copied.read_into(group, places)


def test_columns_of_a_user_that_differ_in_length_are_refused(copied):
    def shown(table):
        shorter = pa.array(
            [row[1:] for row in table["timestamps"].to_pylist()], table["timestamps"].type
        )
        return table.set_column(table.schema.get_field_index("timestamps"), "timestamps", shorter)

    data = _rewrite(copied, shown)
    with pytest.raises(
        UserError, match="'items' and 'timestamps' of a user differ in length: prepare again"
    ):
        data.read_users(data.row_groups[0], ["timestamps"])
