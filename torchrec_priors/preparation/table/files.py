"""Looks at the files of a table: which they are, how they are written, and their columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.common.system_errors import blame_the_system
from torchrec_priors.errors import UserError, shown, shown_names
from torchrec_priors.parquet import ParquetReader, read_schema
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.source import plain
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.csv_file import names_in, read_csv_blocks, read_header
from torchrec_priors.preparation.raw.csv_form import CsvForm
from torchrec_priors.preparation.raw.times import TimeForm
from torchrec_priors.preparation.table.description import is_file_name

_PARQUET = b"PAR1"
# These delimiters are tried first. Any other character that separates the names is found, too.
_USUAL = (",", ";", "\t", "|")
_NEVER = set("\"'_-.\r\n")
# The number of bytes of a CSV file, and of rows of a Parquet file, that show how times are written.
_SAMPLE_BYTES = 1 << 18
_SAMPLE_ROWS = 2_000


@dataclass(frozen=True)
class RawTable:
    """Files that have the same columns.

    Attributes:
        files: the files, sorted.
        columns: the types of the columns to read, by name. In CSV, all columns are text.
        delimiter: the character between values of CSV; None for Parquet.
        unused: the names of the other columns of the first file.
    """

    files: list[Path]
    columns: Mapping[str, pa.DataType]
    delimiter: str | None
    unused: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The name of the file or of the files' folder, for messages."""
        if len(self.files) == 1:
            return self.files[0].name
        return f"{self.files[0].parent.name}/ ({len(self.files):,} files)"

    @property
    def words(self) -> str:
        """How the files are written, for users."""
        if self.delimiter is None:
            return "Parquet"
        name = {"\t": "tabs", " ": "blanks"}.get(self.delimiter, f"'{self.delimiter}'")
        return f"CSV with {name} between the values"

    def read(self, engine: Engine, bad_rows: BadRows, times: Mapping[str, TimeForm]) -> ir.Table:
        """Returns the table of the columns. Times that are text become milliseconds."""
        if self.delimiter is None:
            as_text = {name: form for name, form in times.items() if self.is_text(name)}
            return engine.read_parquet(self.files, self.columns, bad_rows, as_text)

        form = CsvForm(self.delimiter, joins_lines=True, times=times)
        columns = {**self.columns, **dict.fromkeys(times, pa.int64())}
        return engine.read_csv(self.files, columns, bad_rows, form)

    def is_text(self, column: str) -> bool:
        """Returns whether the files have text in this column."""
        return bool(pa.types.is_string(plain(self.columns[column])))

    def is_time(self, column: str) -> bool:
        """Returns whether the type of this column is a time or a date."""
        kind = plain(self.columns[column])
        return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))

    def sample(self, column: str) -> pa.Array:
        """Returns the first values of a column of the first file, as text."""
        if self.delimiter is not None:
            form = CsvForm(self.delimiter, joins_lines=True)
            blocks = read_csv_blocks(
                self.files[0], {column: pa.string()}, BadRows("drop"), _SAMPLE_BYTES, form
            )
            return next(blocks)[column].combine_chunks()[:_SAMPLE_ROWS]

        with ParquetReader(self.files[0]) as reader:
            batches = reader.iter_batches(_SAMPLE_ROWS, [column])
            values = next(batches, None)
            if values is None:
                return pa.array([], pa.string())
            rows = values.column(0)
        if pa.types.is_dictionary(rows.type):
            rows = rows.dictionary_decode()
        # Numbers like 1.7e9 are written out, because a time is recognised by its digits.
        if pa.types.is_floating(rows.type):
            rows = pa.array(
                [
                    None if value is None or value != value else int(value)
                    for value in rows.to_pylist()
                ],
                pa.int64(),
            )
        return rows.drop_null().cast(pa.string())


def files_of(place: Path, option: str) -> list[Path]:
    """Returns the files of a place: the file itself, or all files in the folder, sorted.

    Raises:
        UserError: there is nothing, or the folder has no files.
    """
    if place.is_dir():
        files = [
            file
            for file in sorted(place.rglob("*"))
            if file.is_file() and is_file_name(file.relative_to(place))
        ]
        if not files:
            raise UserError(f"{option}: folder '{place}' has no files: give one that has")
        return [file.absolute() for file in files]
    if not place.exists():
        raise UserError(f"{option}: there is no file or folder '{place}': check the path")
    return [place.absolute()]


def look_at(place: Path, option: str, wanted: Mapping[str, str]) -> RawTable:
    """Looks at the first file of a place, and finds how it is written.

    Args:
        place: the file or folder.
        option: the option that gave it, for messages.
        wanted: the columns to read; for each, the option that named it.

    Raises:
        UserError: a file cannot be read, or lacks a column.
    """
    files = files_of(place, option)
    parquet = [file for file in files if _is_parquet(file)]
    if parquet and len(parquet) < len(files):
        other = next(file for file in files if file not in parquet)
        raise UserError(
            f"{option}: '{place}' has Parquet files and others ('{other.name}'):"
            " keep one kind in it"
        )
    if parquet:
        types, names = _parquet_columns(files[0], wanted)
        return RawTable(files, types, None, _others(names, wanted))

    header = read_header(files[0])
    if not header.strip():
        raise UserError(f"{option}: '{files[0]}' is empty: give a file with rows")
    delimiter = _delimiter(header, wanted, files[0])
    unused = _others(names_in(header, delimiter), wanted)
    return RawTable(files, dict.fromkeys(wanted, pa.string()), delimiter, unused)


def _others(names: Iterable[str], wanted: Mapping[str, str]) -> list[str]:
    """Returns the names that are not wanted, each once."""
    return [name for name in dict.fromkeys(names) if name and name not in wanted]


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_PARQUET)) == _PARQUET


def _parquet_columns(
    file: Path, wanted: Mapping[str, str]
) -> tuple[dict[str, pa.DataType], list[str]]:
    """Returns the types of the wanted columns by name, and the names of all columns."""
    try:
        schema = read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        blame_the_system(error, f"'{file}'")
        raise UserError(
            f"{file} is not a Parquet file ({str(error).splitlines()[0]}): get it again"
        ) from error
    for name, option in wanted.items():
        if name not in schema.names:
            raise _no_column(name, option, file, schema.names)
    return {name: schema.field(name).type for name in wanted}, schema.names


def _delimiter(header: bytes, wanted: Mapping[str, str], file: Path) -> str:
    """Returns the character that separates the names in the first row of a file.

    It is the one for which all columns to read are among the names.
    """
    text = header.decode(errors="replace")
    others = sorted({character for character in text if not _is_in_names(character)})
    candidates = [*_USUAL, *(character for character in others if character not in _USUAL)]
    names = {candidate: names_in(header, candidate) for candidate in candidates}
    for candidate in candidates:
        if set(wanted) <= set(names[candidate]):
            return candidate

    # The delimiter with most of the columns shows best which one is missing.
    found = max(candidates, key=lambda one: (len(set(wanted) & set(names[one])), len(names[one])))
    missing = next(name for name in wanted if name not in names[found])
    raise _no_column(missing, wanted[missing], file, names[found])


def _is_in_names(character: str) -> bool:
    """Returns whether a character is never a delimiter. Only ASCII characters can be."""
    return character.isalnum() or character in _NEVER or not character.isascii()


def _no_column(name: str, option: str, file: Path, names: Sequence[str]) -> UserError:
    if any(one.strip().lstrip("-").replace(".", "", 1).isdigit() for one in names):
        return UserError(
            f"{option}: '{file}' begins with {shown_names(names)} where the names of its columns"
            f" are expected: put a first line with names into it, such as '{name}'"
        )
    return UserError(
        f"{option}: '{file}' has no column {shown(name)}; it has {shown_names(names)}:"
        " give one of these"
    )
