"""Parquet copies of raw files that an engine cannot read as they are: CSV, and Parquet with text that is no UTF-8.

A copy has the columns asked for and `row`, the place of each row in the raw file (1-based). It is written once, on the
machine that runs `prepare`, in bounded memory, so that every engine sees the same rows.
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

_ROWS = 1 << 18


def copy_csv(file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows, copy: Path) -> None:
    """Raises UserError as `read_csv`."""
    blocks = (
        table.rename_columns({LINE: ROW}) for table in read_csv_blocks(file, columns, bad_rows)
    )
    _write(copy, columns, blocks)


def copy_text(
    file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows, copy: Path
) -> None:
    """Leaves out the rows of a Parquet file with text that is no UTF-8; raises UserError where `bad_rows` refuses."""
    _write(copy, columns, _valid_text(file, columns, bad_rows))


def _valid_text(
    file: Path, columns: Mapping[str, pa.DataType], bad_rows: BadRows
) -> Iterable[pa.Table]:
    row = 1
    for batch in _batches(file, columns):
        table = pa.table({**dict(zip(batch.schema.names, batch.columns, strict=True))}).select(
            list(columns)
        )
        table = table.append_column(ROW, pa.array(np.arange(row, row + len(table))))
        row += len(batch)
        for name in columns:
            column = table[name].combine_chunks()
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
                continue
            valid = _is_utf8(column)
            if not valid.all():
                place = int(np.argmin(valid))
                value = column[place].as_buffer().to_pybytes().decode(errors="backslashreplace")
                at = table[ROW].filter(pa.array(~valid))
                first = f"{file}, row {at[0].as_py()}"
                account = f"{file.name}: {name} is no UTF-8 text"
                bad_rows.handle_many(
                    first, f"{name} is no UTF-8 text: {shown(value)}", account, len(at)
                )
                table = table.filter(pa.array(valid))
        yield table


def _batches(file: Path, columns: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    with ParquetReader(file) as opened:
        yield from opened.iter_batches(_ROWS, list(columns))


def _is_utf8(texts: pa.Array) -> np.ndarray:
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
