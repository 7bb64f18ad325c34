"""Writes the files of a prepared data set, so that their bytes depend on their rows alone, not on the engine."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from torchrec_priors.parquet import ParquetWriter
from torchrec_priors.preparation.engine.engine import Engine

_ROWS = 1 << 20  # of a row group
_ELEMENT = "l"  # stands in every file, hence in the content's hash


def write_arrow(file: Path, table: pa.Table) -> None:
    write_batches(file, table.schema, table.to_batches())


def write_table(engine: Engine, file: Path, table: ir.Table) -> None:
    """An Ibis table of any size, in its own order."""
    write_batches(file, table.schema().to_pyarrow(), engine.batches(table, _ROWS // 8))


def write_batches(file: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Rows that come in any batches."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with ParquetWriter(file, schema) as writer:
        for group in even(schema, batches, _ROWS):
            writer.write_table(group, row_group_size=_ROWS)


def even(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table], rows: int
) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows each, the last one shorter, each of one chunk."""
    waiting: list[pa.Table] = []
    held = 0
    for batch in batches:
        table = batch if isinstance(batch, pa.Table) else pa.table(batch)
        waiting.append(table.cast(schema))
        held += len(table)
        while held >= rows:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, rows).combine_chunks()
            waiting = [whole.slice(rows)]
            held = held - rows
    if held:
        yield pa.concat_tables(waiting).combine_chunks()


def lists(users: pa.Table, steps: Iterable[pa.RecordBatch], at_once: int) -> Iterator[pa.Table]:
    """Users with their steps as lists, `at_once` users a table.

    Args:
        users: `n`, how many steps each has; its other columns come through, the first before the lists.
        steps: of all these users, one user after another.
    """
    columns = [name for name in users.column_names if name != "n"]
    source = iter(steps)
    waiting = list[pa.Table]()
    held = 0
    for start in range(0, len(users), at_once):
        some = users.slice(start, at_once)
        offsets = np.concatenate([[0], np.cumsum(some["n"].to_numpy())])
        while held < offsets[-1]:
            waiting.append(pa.table(next(source)))
            held += len(waiting[-1])
        whole = pa.concat_tables(waiting)
        mine = whole.slice(0, offsets[-1]).combine_chunks()
        waiting = [whole.slice(offsets[-1])]
        held = held - int(offsets[-1])
        made = {columns[0]: some[columns[0]]}
        for name in mine.column_names:
            values = mine[name].combine_chunks()
            kind = pa.list_(pa.field(_ELEMENT, values.type))
            made[name] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=kind)
        yield pa.table({**made, **{name: some[name] for name in columns[1:]}})
    assert held == 0
    assert next(source, None) is None, "steps of other users"
