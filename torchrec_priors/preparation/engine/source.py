"""Raw files that an engine reads: their schemas, and which of them a row of a derived table came from."""

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

FILE = "file"
ROW = "row"
ORDER = "order"
PLACE = (FILE, ROW, ORDER)
ROW_BITS = 40  # of `order`: 10^12 rows a file


@dataclass
class Source:
    """Raw files of one schema.

    Attributes:
        files: sorted; `file` of a row is its place here.
        columns: what is read of them.
        bad_rows: what becomes of text that is no UTF-8.
        unit: what a row is called in messages: `row` of Parquet, `line` of CSV.
        copies: files that are read from a Parquet copy with a column `row`, because not all of their rows are.
    """

    files: list[Path]
    columns: Mapping[str, pa.DataType]
    bad_rows: BadRows
    unit: str
    copies: dict[int, Path] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What the account of dropped rows calls them."""
        if len(self.files) == 1:
            return self.files[0].name
        folders = {file.parent.name for file in self.files}
        folder = folders.pop() if len(folders) == 1 else self.files[0].parent.parent.name
        return f"{folder}/ ({len(self.files):,} files)"


def checked(files: Sequence[Path | str], columns: Mapping[str, pa.DataType]) -> list[Path]:
    """`files` as sorted paths.

    Raises:
        UserError: no file, or a column named like one of those that name a row.
    """
    paths = sorted({Path(file).absolute() for file in files})
    if not paths:
        raise UserError("--raw: no file to read: look at the folder's structure")
    for name in PLACE:
        if name in columns:
            raise UserError(
                f"{paths[0]}: column '{name}' cannot be read, as rows are named by {', '.join(PLACE)}"
            )
    return paths


def check_parquet(file: Path, columns: Mapping[str, pa.DataType]) -> None:
    """Reads nothing but the schema.

    Raises:
        UserError: no Parquet, or a column that is missing or of another type (dictionaries count as their values).
    """
    try:
        schema = read_schema(file)
    except FileNotFoundError as error:
        raise UserError(f"--raw: there is no file '{file}'") from error
    except (pa.ArrowInvalid, OSError) as error:
        blame_the_system(error, f"'{file}'")
        raise UserError(f"{file} is no Parquet file ({str(error).splitlines()[0]})") from error
    for name, kind in columns.items():
        if name not in schema.names:
            raise UserError(f"{file} has no column '{name}' (it has {', '.join(schema.names)})")
        found = schema.field(name).type
        if plain(found) != plain(kind):
            raise UserError(f"{file}: column '{name}' is of type {found} where {kind} is expected")


def plain(kind: pa.DataType) -> pa.DataType:
    """A type without how Arrow lays values out, which Parquet does not know, and without what an extension adds."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(
        kind, pa.UuidType
    ):  # engines have the latter
        return plain(kind.storage_type)
    if types.is_dictionary(kind):
        return plain(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if (
        types.is_large_list(kind)
        or types.is_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    ):
        return pa.list_(plain(kind.value_type))
    return kind


def origin(table: ir.Table) -> str | None:
    """Name of the source that column `file` of a derived table comes from; None where it comes from none."""
    relation = table.op()
    column = FILE
    while not isinstance(relation, ops.PhysicalTable):
        value = relation.values.get(column) if hasattr(relation, "values") else None
        if not isinstance(value, ops.Field):
            return None
        relation = value.rel
        column = value.name
    return relation.name if column == FILE else None
