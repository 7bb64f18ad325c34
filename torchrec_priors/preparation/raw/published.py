"""What corpora of published Parquet files share: columns in whatever width they come, and times in milliseconds."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.common.system_errors import blame_the_system
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import read_schema
from torchrec_priors.preparation.engine.rule import Rule

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
    right, name = kind
    is_list = pa.types.is_list, pa.types.is_large_list
    return lambda found: any(check(found) for check in is_list) and right(
        found.value_type
    ), f"a list of {name}"


def either(first: Kind, second: Kind) -> Kind:
    return lambda found: first[0](found) or second[0](found), f"{first[1]} or {second[1]}"


def found_types(file: Path, columns: Mapping[str, Kind]) -> dict[str, pa.DataType]:
    """The types that columns of a Parquet file have, which are of these kinds.

    Raises:
        UserError: no Parquet, or a column that is missing or of another kind.
    """
    try:
        schema = read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        blame_the_system(error, f"'{file}'")
        raise UserError(f"{file} is no Parquet file ({str(error).splitlines()[0]})") from error
    types = {}
    for name, (right, kind) in columns.items():
        if name not in schema.names:
            raise UserError(f"{file} has no column '{name}' (it has {', '.join(schema.names)})")
        found = schema.field(name).type
        found = found.value_type if pa.types.is_dictionary(found) else found
        if not right(found):
            raise UserError(f"{file}: column '{name}' is of type {found} where {kind} is expected")
        types[name] = found
    return types


def there(table: ir.Table, names: Iterable[str]) -> list[Rule]:
    """Rules of columns that must have a value, and of those that may hold them, none beyond int64."""
    rules = [Rule(name, "must have a value", table[name].notnull()) for name in names]
    beyond = [name for name in names if table[name].type().is_uint64()]
    return rules + [Rule(name, "must be below 2^63", table[name] <= _LARGEST) for name in beyond]


def signed(column: ir.Column) -> ir.Column:
    """Numbers that `there` has checked, in a type that every engine has."""
    return column.cast("int64") if column.type().is_uint64() else column


def since_1970(time: ir.TimestampValue) -> ir.BooleanValue:
    """Whether `milliseconds` are not negative."""
    return time.cast("timestamp") >= ibis.timestamp("1970-01-01 00:00:00")


def milliseconds(time: ir.TimestampValue) -> ir.IntegerValue:
    """Since 1970, in UTC; what is finer is cut off."""
    plain = time.cast("timestamp")
    return plain.truncate("s").epoch_seconds().cast("int64") * 1000 + plain.millisecond().cast(
        "int64"
    )
