"""Writes data frames as Parquet files, so that they are read like every other table.

Every object that exports a stream of Arrow data is a data frame: those of pandas and Polars, tables
and readers of Arrow, and relations of DuckDB.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa

from torchrec_priors.errors import UserError, shown, shown_names
from torchrec_priors.parquet import ParquetWriter
from torchrec_priors.preparation.engine.source import plain


@runtime_checkable
class Frame(Protocol):
    """A data frame: an object with the Arrow PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


def write_frame(frame: Frame, columns: Sequence[str], file: Path, name: str) -> None:
    """Writes columns of a data frame to a Parquet file, batch by batch.

    Args:
        frame: the data frame.
        columns: the columns to write.
        file: the file.
        name: the argument that gave the data frame, for messages.

    Raises:
        UserError: it is no data frame, or lacks a column.
    """
    # Python does not check the types of arguments.
    if not isinstance(frame, Frame):
        raise UserError(
            f"{name} is a {type(frame).__name__}: give a path, or a data frame of pandas (2.2 or "
            "newer), Polars or Arrow"
        )
    reader = pa.RecordBatchReader.from_stream(frame)
    names = reader.schema.names
    for column in columns:
        if column not in names:
            raise UserError(f"{name} has no column {shown(column)}: it has {shown_names(names)}")

    schema = pa.schema([(column, plain(reader.schema.field(column).type)) for column in columns])
    with ParquetWriter(file, schema) as writer:
        is_empty = True
        for batch in reader:
            is_empty = False
            writer.write_table(pa.Table.from_batches([batch]).select(list(columns)).cast(schema))
        if is_empty:
            writer.write_table(schema.empty_table())
