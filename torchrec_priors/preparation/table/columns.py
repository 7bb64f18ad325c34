"""Turns columns of tables into ids, times and labels."""

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.build.plain_types import is_time
from torchrec_priors.preparation.raw.published import milliseconds
from torchrec_priors.preparation.raw.times import TimeForm
from torchrec_priors.preparation.table.description import ItemLabel, Kind

# These texts stand for a missing value, as the empty text does.
MISSING = ("NULL", "null", "\\N", "NaN", "nan", "None", "<NA>")
# Ids of this form are stored as integers if all ids have it: they have no sign + and no leading
# zero, and fit in 64 bits.
_PLAIN_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"


def text_of(column: ir.Column) -> ir.StringColumn:
    """Returns a column as text without blanks around it; null where a value is missing."""
    kind = column.type()
    if kind.is_floating():
        # Data frames turn integers into floats if a value is missing: 7.0 is the id 7.
        whole = column == column.floor()
        column = ibis.ifelse(whole, column.cast("int64").cast("string"), column.cast("string"))
    elif not kind.is_string():
        column = column.cast("string")

    text = column.strip()
    return ibis.ifelse(text.isin(["", *MISSING]), ibis.null("string"), text)


def id_of(column: ir.Column) -> ir.Column:
    """Returns a column of ids as integers if its type is, and otherwise as text."""
    kind = column.type()
    if kind.is_signed_integer():
        return column.cast("int64")
    return text_of(column)


def are_plain_integers(ids: ir.Column) -> ir.BooleanScalar:
    """Returns whether all ids of a column from `id_of` can be integers, apart from missing ones."""
    if ids.type().is_integer():
        return ids.count() >= 0
    return ids.re_search(_PLAIN_INTEGER).all()


def of_kind(ids: ir.Column, kind: Kind) -> ir.Column:
    """Returns a column from `id_of` as integers or as text."""
    if kind == "integer":
        return ids.cast("int64")
    return ids.cast("string")


def time_in_ms(column: ir.Column, form: TimeForm | None) -> ir.IntegerColumn:
    """Returns a column of times as milliseconds since 1970.

    Args:
        column: times, or numbers; times as text have become milliseconds when they were read.
        form: the form of numbers; None for times, and for times that were text.
    """
    if is_time(column.type()):
        return milliseconds(column)
    if form is None or form.ratio is None:
        return column.cast("int64")

    factor, divisor = form.ratio
    if column.type().is_integer():
        return ((column.cast("int64") * factor) // divisor).cast("int64")
    # A column of decimals may have fractions of seconds.
    return (column.cast("float64") * (factor / divisor)).floor().cast("int64")


def labels_of(table: ir.Table, entity: str, label: ItemLabel) -> ir.Table:
    """Returns the table of (entity, label) of a column of labels, without missing labels.

    Args:
        table: a table with the column `entity` and the label's column.
        entity: `item_id` or `user_id`.
        label: the column, and the text that separates several labels.
    """
    labels = table.select(entity, label=text_of(table[label.column]))
    labels = labels.filter(labels.label.notnull())
    if label.separator is None:
        return labels

    several = labels.select(entity, label=labels.label.split(label.separator).unnest())
    several = several.select(entity, label=text_of(several.label))
    return several.filter(several.label.notnull()).distinct()
