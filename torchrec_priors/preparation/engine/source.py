"""Describes the raw files that an engine reads, and checks their schemas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ibis.expr.operations as ops
import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.common.system_errors import blame_the_system
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import read_schema
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.csv_form import CsvForm

FILE = "file"
ROW = "row"
ORDER = "order"
PLACE = (FILE, ROW, ORDER)
# The number of bits of `order` for the row, enough for 10^12 rows per file. The higher bits hold
# the file.
ROW_BITS = 40


@dataclass
class Source:
    """Raw files with the same schema.

    Attributes:
        files: the sorted files. The column `file` is an index into this list.
        columns: the types of the columns to read, by name.
        bad_rows: handles text that is not UTF-8.
        form: how CSV files are written, and the forms of columns of times.
        unit: the word for the position of a row in messages: `row` for Parquet, `line` for CSV.
        copies: the Parquet copies that are read instead of some of the files, by the index of the
            file. A copy has an additional column `row`.
    """

    files: list[Path]
    columns: Mapping[str, pa.DataType]
    bad_rows: BadRows
    unit: str
    form: CsvForm = field(default_factory=CsvForm)
    copies: dict[int, Path] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name of the files in the counts of dropped rows."""
        if len(self.files) == 1:
            return self.files[0].name

        folders = {file.parent.name for file in self.files}
        if len(folders) == 1:
            folder = folders.pop()
        else:
            # The files are in several folders, for example one for each month. The folder that
            # contains these folders is named.
            folder = self.files[0].parent.parent.name
        return f"{folder}/ ({len(self.files):,} files)"


def checked(files: Sequence[Path | str], columns: Mapping[str, pa.DataType]) -> list[Path]:
    """Returns `files` as sorted paths.

    Raises:
        UserError: there is no file, or a column has the name of a column that identifies rows.
    """
    # The set removes repeats, so that a file that is given twice is read once.
    paths = sorted({Path(file).absolute() for file in files})
    if not paths:
        raise UserError("--raw: no file to read: look at the folder's structure")
    for name in PLACE:
        if name in columns:
            raise UserError(
                f"{paths[0]}: column '{name}' cannot be read, "
                f"as rows are identified by {', '.join(PLACE)}"
            )
    return paths


def check_parquet(file: Path, columns: Mapping[str, pa.DataType]) -> None:
    """Checks the columns of a file. Only its schema is read.

    Raises:
        UserError: the file is not Parquet, lacks a column, or has a column of the wrong type. A
            dictionary column counts as a column of its values' type.
    """
    try:
        schema = read_schema(file)
    except FileNotFoundError as error:
        raise UserError(f"--raw: there is no file '{file}'") from error
    except (pa.ArrowInvalid, OSError) as error:
        blame_the_system(error, f"'{file}'")
        raise UserError(f"{file} is not a Parquet file ({str(error).splitlines()[0]})") from error

    for name, expected in columns.items():
        if name not in schema.names:
            raise UserError(f"{file} has no column '{name}' (it has {', '.join(schema.names)})")
        actual = schema.field(name).type
        if plain(actual) != plain(expected):
            raise UserError(
                f"{file}: column '{name}' is of type {actual} where {expected} is expected"
            )


def plain(kind: pa.DataType) -> pa.DataType:
    """Returns the simplest type for the same values, so that types can be compared.

    Arrow has several layouts for the same values, such as `string` and `large_string`, but Parquet
    does not store the layout. Extension types become the types in which they are stored.
    """
    types = pa.types
    # UUIDs are left as they are, because engines support this type.
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType):
        return plain(kind.storage_type)

    if types.is_dictionary(kind):
        return plain(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if _is_list(kind):
        return pa.list_(plain(kind.value_type))
    return kind


def _is_list(kind: pa.DataType) -> bool:
    """Returns whether values are lists, except lists of a fixed length."""
    types = pa.types
    is_list: bool = (
        types.is_large_list(kind)
        or types.is_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )
    return is_list


def origin(table: ir.Table) -> str | None:
    """Returns the name of the source from which the column `file` of a derived table comes.

    Returns None if the column does not come from a source.
    """
    relation = table.op()
    column = FILE

    # The column is followed through the relations, in which its name may change, down to a table.
    while not isinstance(relation, ops.PhysicalTable):
        value = relation.values.get(column) if hasattr(relation, "values") else None
        if not isinstance(value, ops.Field):
            return None
        relation = value.rel
        column = value.name

    if column != FILE:
        return None
    return relation.name
