"""Sequences of a data set that grew: who did something new is replaced, all others are copied.

Users who were there stay where they are, so that their numbers stay the same; new ones come after them, in files of
their own.
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


def link(source: Path, file: Path) -> None:
    """The same file at another place, without its bytes being read where the file system can do so."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), file)  # the file itself, where a link names it
    except OSError:
        shutil.copyfile(source, file)


def write_replaced(
    output: OutputFiles, source: Path, name: str, changed: pa.Array, histories: WrittenHistories
) -> None:
    """A file of sequences, with the new histories of some of its users.

    Args:
        source: the file as it was.
        name: of the new one.
        changed: ids of all users with new interactions.
        histories: of these.
    """
    ids = read_table(source, [_USER])[_USER].combine_chunks()
    mine = ids.filter(pc.is_in(ids, value_set=changed.cast(ids.type)))
    if not len(mine):
        output.make(name, lambda file: link(source, file))
        return
    here = ibis.memtable(pa.table({_USER: mine}))
    buckets = [bucket.semi_join(here, _USER) for bucket in histories.buckets]
    of_file = WrittenHistories(histories.engine, buckets, histories.split, histories.ids)

    def write(file: Path) -> None:
        with ParquetReader(source) as opened, ParquetWriter(file, opened.schema) as writer:
            for group in _row_groups(opened, mine, of_file):
                writer.write_table(group, row_group_size=len(group))

    output.make(name, write)


def _row_groups(
    opened: ParquetReader, changed: pa.Array, histories: WrittenHistories
) -> Iterator[pa.Table]:
    new = _Reader(histories.tables(256))
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
        for column in set(group.column_names) - set(rows.column_names):
            rows = rows.append_column(column, stale[column])
        same = group.filter(pa.array(~mask))
        both = pa.concat_tables(
            [same, rows.select(group.column_names).cast(group.schema)]
        ).combine_chunks()
        place = np.empty(len(group), np.int64)
        place[~mask] = np.arange(len(same))
        place[mask] = len(same) + np.arange(len(rows))
        yield both.take(pa.array(place))


class _Reader:
    """Rows of tables, as many at a time as are asked for."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self.tables = tables
        self.waiting = list[pa.Table]()

    def take(self, rows: int) -> pa.Table:
        while sum(map(len, self.waiting)) < rows:
            self.waiting.append(next(self.tables))
        whole = pa.concat_tables(self.waiting)
        self.waiting = [whole.slice(rows)]
        return whole.slice(0, rows)
