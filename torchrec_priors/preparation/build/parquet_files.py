"""Writes the Parquet files of a prepared data set.

The bytes of the files depend on the rows, but not on the engine.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from torchrec_priors.parquet import ParquetWriter
from torchrec_priors.preparation.engine.engine import Engine

# The number of rows in a row group.
_ROWS = 1 << 20
# The name of list elements in the schema. Every file contains it, so changing it would change the
# checksums of all data sets.
_ELEMENT = "l"


def write_arrow(file: Path, table: pa.Table) -> None:
    write_batches(file, table.schema, table.to_batches())


def write_table(engine: Engine, file: Path, table: ir.Table) -> None:
    """Writes an Ibis table of any size with its rows in order."""
    write_batches(file, table.schema().to_pyarrow(), engine.batches(table, _ROWS // 8))


def write_batches(file: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Writes batches of rows. The file does not depend on the sizes of the batches."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with ParquetWriter(file, schema) as writer:
        for group in even(schema, batches, _ROWS):
            writer.write_table(group, row_group_size=_ROWS)


def even(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table], rows: int
) -> Iterator[pa.Table]:
    """Yields the same rows in tables of `rows` rows. The last table may be shorter.

    Each table has one chunk.
    """
    # Batches are collected and copied once per table of `rows` rows, not once per batch.
    waiting: list[pa.Table] = []
    waiting_rows = 0
    for batch in batches:
        table = batch if isinstance(batch, pa.Table) else pa.table(batch)
        waiting.append(table.cast(schema))
        waiting_rows += len(table)

        while waiting_rows >= rows:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, rows).combine_chunks()
            waiting = [whole.slice(rows)]
            waiting_rows -= rows

    if waiting_rows:
        yield pa.concat_tables(waiting).combine_chunks()


def lists(users: pa.Table, steps: Iterable[pa.RecordBatch], at_once: int) -> Iterator[pa.Table]:
    """Yields tables of `at_once` users, in which each user's steps are stored as lists.

    A step is one interaction in a user's history.

    Args:
        users: a table with one row for each user. The column `n` is the number of the user's steps.
            The other columns are copied: the first one before the lists, and the rest after them.
        steps: the steps of all these users, one user after another.
        at_once: the number of users in a table.
    """
    columns = [name for name in users.column_names if name != "n"]
    source = iter(steps)
    waiting = list[pa.Table]()
    waiting_rows = 0
    for start in range(0, len(users), at_once):
        part = users.slice(start, at_once)
        offsets = np.concatenate([[0], np.cumsum(part["n"].to_numpy())])

        # A batch of steps may end in the middle of a user. The remaining steps are used for the
        # next table.
        while waiting_rows < offsets[-1]:
            waiting.append(pa.table(next(source)))
            waiting_rows += len(waiting[-1])
        whole = pa.concat_tables(waiting)
        values_of_part = whole.slice(0, offsets[-1]).combine_chunks()
        waiting = [whole.slice(offsets[-1])]
        waiting_rows -= int(offsets[-1])

        # This order of columns is the one in the file.
        table = {columns[0]: part[columns[0]]}
        for name in values_of_part.column_names:
            values = values_of_part[name].combine_chunks()
            kind = pa.list_(pa.field(_ELEMENT, values.type))
            table[name] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=kind)
        for name in columns[1:]:
            table[name] = part[name]
        yield pa.table(table)

    assert waiting_rows == 0
    assert next(source, None) is None, "steps of other users"
