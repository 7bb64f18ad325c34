"""Parquet raw files, read out of core, with unreadable files and wrong columns as the user's mistake."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.raw import BadRows


def open_parquet(file: Path, columns: Mapping[str, pa.DataType]) -> ds.Dataset:
    """A Parquet file that has these columns; nothing but its schema is read.

    Raises:
        UserError: no Parquet, or a column that is missing or of another type (dictionaries count as their values).
    """
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} is no Parquet file ({str(error).splitlines()[0]})") from error
    for name, kind in columns.items():
        if name not in schema.names:
            raise UserError(f"{file} has no column '{name}' (it has {', '.join(schema.names)})")
        found = schema.field(name).type
        if (found.value_type if pa.types.is_dictionary(found) else found) != kind:
            raise UserError(f"{file}: column '{name}' is of type {found} where {kind} is expected")
    wanted = pa.schema({name: schema.field(name).type for name in columns})
    return ds.dataset(file, format="parquet", schema=wanted)


def keep_rows(
    data: ds.Dataset, valid: pc.Expression, file: Path, bad_rows: BadRows, column: str, must: str
) -> ds.Dataset:
    """The rows where `valid`, still unread; the others are refused or counted as "<column> <must>".

    Args:
        data: has a column `row`, the 0-based number of each row in the file.
        valid: never null.
    """
    try:
        wrong = data.filter(~valid).to_table(columns=["row", column])
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} cannot be read ({str(error).splitlines()[0]})") from error
    if wrong.num_rows == 0:
        return data
    example = f"{column} {must}: {wrong[column][0].as_py()!r}"
    bad_rows.handle(file, pc.add(wrong["row"], 1), f"{column} {must}", example)
    return data.filter(valid)


def read_parquet(file: Path, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """The columns of a whole file, for what fits in memory.

    Raises:
        UserError: as `open_parquet`; a file that is cut or damaged; a null.
    """
    try:
        table = open_parquet(file, columns).to_table()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} cannot be read ({str(error).splitlines()[0]})") from error
    for name in columns:
        if table[name].null_count:
            raise UserError(f"{file}: column '{name}' has a row without a value")
    return table
