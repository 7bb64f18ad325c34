"""Parquet copies of raw files that an engine cannot read as they are.

These are CSV files, and Parquet files with text that is not UTF-8. A copy has the requested columns
and `row`, the position of each row in the raw file (1-based). It is written once, on the machine
that runs `prepare`, in bounded memory: every engine sees the same rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from torchrec_priors.common.files import new_file
from torchrec_priors.errors import shown
from torchrec_priors.parquet import ParquetReader, ParquetWriter
from torchrec_priors.preparation.engine.source import ROW
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.csv_file import read_csv_blocks
from torchrec_priors.preparation.raw.typed import LINE

_ROWS = 1 << 18  # rows in memory at a time, and in a row group


def copy_csv(file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows, copy: Path) -> None:
    """Copies a CSV file; raises UserError as `read_csv`."""
    blocks = (
        table.rename_columns({LINE: ROW}) for table in read_csv_blocks(file, columns, bad_rows)
    )
    _write(copy, columns, blocks)


def copy_text(
    file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows, copy: Path
) -> None:
    """Copies a Parquet file without the rows that have text that is not UTF-8.

    Raises:
        UserError: There is such a row, and `bad_rows` rejects it.
    """
    _write(copy, columns, _valid_text(file, columns, bad_rows))


def _valid_text(
    file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows
) -> Iterable[pa.Table]:
    """Yields the rows whose texts are UTF-8, each with its position in the file."""
    first_row = 1
    for batch in _batches(file, columns):
        table = pa.table(dict(zip(batch.schema.names, batch.columns, strict=True)))
        table = table.select(list(columns))
        rows = np.arange(first_row, first_row + len(table))
        table = table.append_column(ROW, pa.array(rows))
        first_row += len(batch)

        # A row counts once: it is removed before the next column is checked.
        for name in columns:
            table = _with_valid(table, name, file, bad_rows)
        yield table


def _with_valid(table: pa.Table, name: str, file: Path, bad_rows: BadRows) -> pa.Table:
    """Returns the rows whose text in a column is UTF-8; the others are rejected or counted."""
    column = table[name].combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()

    # Only texts can be wrong.
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        return table

    valid = _is_utf8(column)
    if valid.all():
        return table

    # The example shows the bytes that are not UTF-8 as escapes.
    value = column[int(np.argmin(valid))].as_buffer().to_pybytes()
    example = shown(value.decode(errors="backslashreplace"))
    rows = table[ROW].filter(pa.array(~valid))
    bad_rows.handle_many(
        f"{file}, row {rows[0].as_py()}",
        f"{name} is no UTF-8 text: {example}",
        f"{file.name}: {name} is no UTF-8 text",
        len(rows),
    )
    return table.filter(pa.array(valid))


def _batches(file: Path, columns: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    with ParquetReader(file) as reader:
        yield from reader.iter_batches(_ROWS, list(columns))


def _is_utf8(texts: pa.Array) -> np.ndarray:
    """Returns for each text whether it is UTF-8; one by one only if not all of them are."""
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return np.array([_decodes(value) for value in texts])
    return np.ones(len(texts), bool)


def _decodes(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


def _write(copy: Path, columns: Mapping[str, pa.DataType], tables: Iterable[pa.Table]) -> None:
    schema = pa.schema({**columns, ROW: pa.int64()})
    copy.parent.mkdir(parents=True, exist_ok=True)
    with new_file(copy) as partial, ParquetWriter(partial, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=_ROWS)
