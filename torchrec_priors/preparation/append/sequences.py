"""Writes the sequences of a data set that has grown.

The histories of changed users are replaced, and all others are copied. Old users keep their
positions, so their numbers stay the same. New users follow in separate files.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.parquet import ParquetReader, ParquetWriter, read_table
from torchrec_priors.preparation.build.output_files import OutputFiles
from torchrec_priors.preparation.build.sequence_files import WrittenHistories

_USER = "user_id"
# The number of users whose histories are read at a time.
_USERS_AT_ONCE = 256


def link(source: Path, file: Path) -> None:
    """Makes `file` a hard link to `source`, or a copy if the file system has no hard links."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    try:
        # If `source` is a symbolic link, the new file must not depend on it.
        os.link(source.resolve(), file)
    except OSError:
        shutil.copyfile(source, file)


def write_replaced(
    output: OutputFiles, source: Path, name: str, changed: pa.Array, histories: WrittenHistories
) -> None:
    """Writes a file of sequences with new histories for some of its users.

    Args:
        output: the files of the new data set.
        source: the old file.
        name: the name of the new file.
        changed: the ids of all users with new interactions, including users in other files.
        histories: the new histories of these users.
    """
    ids = read_table(source, [_USER])[_USER].combine_chunks()
    changed_in_file = ids.filter(pc.is_in(ids, value_set=changed.cast(ids.type)))
    if not len(changed_in_file):
        output.make(name, lambda file: link(source, file))
        return

    # Histories are computed only for the users of this file.
    users = ibis.memtable(pa.table({_USER: changed_in_file}))
    buckets = [bucket.semi_join(users, _USER) for bucket in histories.buckets]
    of_file = WrittenHistories(histories.engine, buckets, histories.split, histories.ids)

    def write(file: Path) -> None:
        with ParquetReader(source) as opened, ParquetWriter(file, opened.schema) as writer:
            for group in _row_groups(opened, changed_in_file, of_file):
                writer.write_table(group, row_group_size=len(group))

    output.make(name, write)


def _row_groups(
    opened: ParquetReader, changed: pa.Array, histories: WrittenHistories
) -> Iterator[pa.Table]:
    """Yields the row groups of the old file, in which the rows of changed users are replaced."""
    # Both the file and the histories are sorted by user id, so one pass over each is enough.
    new = _RowReader(histories.tables(_USERS_AT_ONCE))
    for number in range(opened.row_groups):
        group = opened.read_row_group(number)
        mask = pc.is_in(group[_USER], value_set=changed).to_numpy()
        if not mask.any():
            yield group
            continue

        rows = new.take(int(mask.sum()))
        stale = group.filter(pa.array(mask))
        assert rows[_USER].combine_chunks().equals(stale[_USER].combine_chunks()), (
            "users in another order"
        )
        # Columns such as `user_group` do not depend on interactions, so they are copied.
        for column in set(group.column_names) - set(rows.column_names):
            rows = rows.append_column(column, stale[column])

        # In `both`, the unchanged rows come first and the new rows follow. `source_row` puts each
        # row where its user was in the old file.
        same = group.filter(pa.array(~mask))
        both = pa.concat_tables(
            [same, rows.select(group.column_names).cast(group.schema)]
        ).combine_chunks()
        source_row = np.empty(len(group), np.int64)
        source_row[~mask] = np.arange(len(same))
        source_row[mask] = len(same) + np.arange(len(rows))
        yield both.take(pa.array(source_row))


class _RowReader:
    """Takes any number of rows from a stream of tables."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self.tables = tables
        self.waiting = list[pa.Table]()

    def take(self, rows: int) -> pa.Table:
        """Returns the next `rows` rows."""
        while sum(map(len, self.waiting)) < rows:
            self.waiting.append(next(self.tables))
        whole = pa.concat_tables(self.waiting)
        self.waiting = [whole.slice(rows)]
        return whole.slice(0, rows)
