"""Helps corpus files to read published Parquet files.

Integers may have any width, and times any unit.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.common.system_errors import blame_the_system
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import read_schema
from torchrec_priors.preparation.engine.rule import Rule

# A kind of type: a function that returns whether a type is of this kind, and the name of the kind
# for messages.
Kind = tuple[Callable[[pa.DataType], bool], str]
_LARGEST = 2**63 - 1


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


WHOLE: Kind = (pa.types.is_integer, "an integer")
NUMBER: Kind = (_is_number, "a number")
TEXT: Kind = (_is_text, "text")
TIME: Kind = (pa.types.is_timestamp, "a timestamp")
TRUTH: Kind = (pa.types.is_boolean, "true or false")


def lists_of(kind: Kind) -> Kind:
    """Returns the kind of lists with elements of the given kind."""
    right, name = kind

    def is_right(column_type: pa.DataType) -> bool:
        is_list = pa.types.is_list(column_type) or pa.types.is_large_list(column_type)
        return is_list and right(column_type.value_type)

    return is_right, f"a list of {name}"


def either(first: Kind, second: Kind) -> Kind:
    """Returns a kind that contains the types of both kinds."""

    def is_right(column_type: pa.DataType) -> bool:
        return first[0](column_type) or second[0](column_type)

    return is_right, f"{first[1]} or {second[1]}"


def found_types(file: Path, columns: Mapping[str, Kind]) -> dict[str, pa.DataType]:
    """Checks the kinds of the columns of a Parquet file, and returns their types.

    Raises:
        UserError: the file is not Parquet, or a column is missing or of another kind.
    """
    try:
        schema = read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        blame_the_system(error, f"'{file}'")
        raise UserError(f"{file} is not a Parquet file ({str(error).splitlines()[0]})") from error

    types = {}
    for name, (right, kind) in columns.items():
        if name not in schema.names:
            raise UserError(f"{file} has no column '{name}' (it has {', '.join(schema.names)})")
        column_type = schema.field(name).type
        # A dictionary is only a way to store a column, so the type of its values counts.
        if pa.types.is_dictionary(column_type):
            column_type = column_type.value_type

        if not right(column_type):
            raise UserError(
                f"{file}: column '{name}' is of type {column_type} where {kind} is expected"
            )
        types[name] = column_type
    return types


def there(table: ir.Table, names: Iterable[str]) -> list[Rule]:
    """Returns rules that require a value in each of these columns, and none beyond int64."""
    rules = [Rule(name, "must have a value", table[name].notnull()) for name in names]
    # Only unsigned columns can hold values beyond int64.
    unsigned = [name for name in names if table[name].type().is_uint64()]
    return rules + [Rule(name, "must be below 2^63", table[name] <= _LARGEST) for name in unsigned]


def signed(column: ir.Column) -> ir.Column:
    """Converts numbers that passed the rules of `there` to a type that every engine supports."""
    if column.type().is_uint64():
        return column.cast("int64")
    return column


def since_1970(time: ir.TimestampValue) -> ir.BooleanValue:
    """Returns whether a time is not before 1970."""
    return time.cast("timestamp") >= ibis.timestamp("1970-01-01 00:00:00")


def milliseconds(time: ir.TimestampValue) -> ir.IntegerValue:
    """Converts a time to milliseconds since 1970, in UTC. Finer units are cut off."""
    plain = time.cast("timestamp")
    # All engines can compute these two parts of a time.
    seconds = plain.truncate("s").epoch_seconds().cast("int64")
    return seconds * 1000 + plain.millisecond().cast("int64")
