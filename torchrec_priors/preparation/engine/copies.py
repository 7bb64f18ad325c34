"""Copies raw files to Parquet if an engine cannot read them directly.

Copies are made of CSV files, and of Parquet files with text that is not UTF-8, or with times that
are text. A copy has the requested columns and `row`, the 1-based position of each row in the raw
file. It is written once, on the machine that runs `prepare`, and in bounded memory. All engines
read the same copy, so they get the same rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.common.files import new_file
from torchrec_priors.errors import shown
from torchrec_priors.parquet import ParquetReader, ParquetWriter
from torchrec_priors.preparation.engine.source import ROW
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.csv_file import read_csv_blocks
from torchrec_priors.preparation.raw.csv_form import CsvForm
from torchrec_priors.preparation.raw.times import TimeForm
from torchrec_priors.preparation.raw.typed import LINE

# The number of rows in memory at a time, and in a row group.
_ROWS = 1 << 18


def copy_csv(
    file: Path,
    columns: Mapping[str, pa.DataType],
    form: CsvForm,
    bad_rows: BadRows,
    copy: Path,
) -> None:
    """Copies a CSV file. Raises UserError for the same reasons as `read_csv`."""
    blocks = (
        table.rename_columns({LINE: ROW})
        for table in read_csv_blocks(file, columns, bad_rows, form=form)
    )
    _write(copy, columns, blocks)


def copy_text(
    file: Path,
    columns: Mapping[str, pa.DataType],
    form: CsvForm,
    bad_rows: BadRows,
    copy: Path,
) -> None:
    """Copies a Parquet file, but leaves out rows in which a text is not UTF-8, or is not a time.

    Raises:
        UserError: there are such rows, and `bad_rows` rejects them.
    """
    _write(copy, columns, _valid_text(file, columns, form, bad_rows))


def _valid_text(
    file: Path, columns: Mapping[str, pa.DataType], form: CsvForm, bad_rows: BadRows
) -> Iterable[pa.Table]:
    """Yields the rows in which all texts are right, with their positions in the file."""
    first_row = 1
    for batch in _batches(file, columns):
        table = pa.table(dict(zip(batch.schema.names, batch.columns, strict=True)))
        table = table.select(list(columns))
        rows = np.arange(first_row, first_row + len(table))
        table = table.append_column(ROW, pa.array(rows))
        first_row += len(batch)

        # A bad row is removed before the next column is checked, so it counts only once.
        for name in columns:
            table = _with_valid(table, name, file, bad_rows)
        for name, times in form.times.items():
            table = _with_times(table, name, times, file, bad_rows)
        yield table


def _with_valid(table: pa.Table, name: str, file: Path, bad_rows: BadRows) -> pa.Table:
    """Returns the rows in which the text in column `name` is UTF-8.

    The other rows are rejected or counted.
    """
    column = table[name].combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()

    # Columns of other types are always valid.
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        return table

    valid = _is_utf8(column)
    if valid.all():
        return table

    # In the example, bytes that are not UTF-8 are shown as escapes like \xff.
    value = column[int(np.argmin(valid))].as_buffer().to_pybytes()
    example = shown(value.decode(errors="backslashreplace"))
    rows = table[ROW].filter(pa.array(~valid))
    bad_rows.handle_many(
        f"{file}, row {rows[0].as_py()}",
        f"{name} is not UTF-8 text: {example}",
        f"{file.name}: {name} is not UTF-8 text",
        len(rows),
    )
    return table.filter(pa.array(valid))


def _with_times(
    table: pa.Table, name: str, times: TimeForm, file: Path, bad_rows: BadRows
) -> pa.Table:
    """Returns the rows in which the text in column `name` is a time, as milliseconds.

    The other rows are rejected or counted.
    """
    texts = table[name].cast(pa.string()).combine_chunks()
    moments = times.milliseconds(texts)
    if moments.null_count:
        wrong = pc.is_null(moments)
        rows = table[ROW].filter(wrong)
        reason = f"{name} is not a time ({times.words})"
        bad_rows.handle_many(
            f"{file}, row {rows[0].as_py()}",
            f"{reason}: {shown(texts.filter(wrong)[0].as_py() or '')}",
            f"{file.name}: {reason}",
            len(rows),
        )
        table = table.filter(pc.invert(wrong))
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, moments.drop_null())


def _batches(file: Path, columns: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    with ParquetReader(file) as reader:
        yield from reader.iter_batches(_ROWS, list(columns))


def _is_utf8(texts: pa.Array) -> np.ndarray:
    """Returns for each text whether it is UTF-8."""
    # Texts are checked one by one only if the fast check of the whole array fails.
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
