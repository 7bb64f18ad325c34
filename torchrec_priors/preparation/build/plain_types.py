"""Converts a corpus to a few types, so that later code need not handle others.

Ids become integers or text, and times and order become int64.

Other types are accepted if their meaning is clear. Unsigned and decimal whole numbers become int64,
dates that are ids become text, and timestamps and dates that are times become milliseconds. A
number beyond int64 is rejected, because a cast would change it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.raw.published import milliseconds

_LEAST = -(2**63)
_LARGEST = 2**63 - 1


def is_whole(kind: dt.DataType) -> bool:
    """Returns whether numbers of this type are integers."""
    return kind.is_integer() or (kind.is_decimal() and kind.scale == 0)


def is_text(kind: dt.DataType) -> bool:
    """Returns whether ids of this type are converted to text."""
    return kind.is_string() or kind.is_date() or kind.is_uuid()


def is_time(kind: dt.DataType) -> bool:
    """Returns whether values of this type are times that need no unit, unlike numbers."""
    return kind.is_timestamp() or kind.is_date()


def is_title(kind: dt.DataType) -> bool:
    """Returns whether titles of this type can be written as text."""
    return (
        is_text(kind) or is_whole(kind) or kind.is_numeric() or kind.is_boolean() or kind.is_null()
    )


def plain(corpus: Corpus, engine: Engine) -> Corpus:
    """Returns the same corpus with plain types. `check` must already have accepted the corpus.

    Raises:
        UserError: a number is beyond int64.
    """
    # Ranges are checked before the casts. A cast would change a number that is too large, or fail
    # without naming the column.
    for table, where, columns in _wide_numbers(corpus):
        _check_range(table, where, columns, corpus.name, engine)

    log = corpus.interactions
    changed: dict[str, ir.Value] = {
        **_ids(log, ["user_id", "item_id"]),
        **_integers(log, ["order"]),
    }
    if is_time(log.timestamp.type()):
        changed["timestamp"] = milliseconds(log.timestamp)
    else:
        changed |= _integers(log, ["timestamp"])
    # `narrow_events` converts the codes to int8 later, when `check_log` has checked their range.
    if corpus.events and not log.event.type().is_int8():
        changed["event"] = log.event.cast("int64")

    # A column without any value has the type null. It is written as text, like titles.
    kinds = corpus.items.schema()
    texts = [
        name
        for name in kinds
        if kinds[name].is_null() or (name == "title" and not kinds[name].is_string())
    ]
    changed_items = {**_ids(corpus.items, ["item_id"]), **_texts(corpus.items, texts)}
    return replace(
        corpus,
        interactions=_with_columns(log, changed),
        items=_with_columns(corpus.items, changed_items),
        item_priors=[_labels(labels, "item_id") for labels in corpus.item_priors],
        user_priors=[_labels(labels, "user_id") for labels in corpus.user_priors],
    )


def narrow_events(corpus: Corpus) -> Corpus:
    """Converts event codes to int8. `check_log` must already have checked their range."""
    log = corpus.interactions
    if not corpus.events or log.event.type().is_int8():
        return corpus
    return replace(corpus, interactions=log.mutate(event=log.event.cast("int8")))


def _wide_numbers(corpus: Corpus) -> Iterator[tuple[ir.Table, str, list[str]]]:
    """Yields the columns that may hold numbers beyond int64, according to their types.

    Each result is a table, its description for messages, and the names of these columns.
    """
    of_log = ["user_id", "item_id", "timestamp", "order"]
    if corpus.events:
        of_log.append("event")

    tables = [(corpus.interactions, "interactions", of_log), (corpus.items, "items", ["item_id"])]
    for priors, entity in ((corpus.item_priors, "item_id"), (corpus.user_priors, "user_id")):
        tables += [
            (labels.table, f"the table of prior '{labels.name}'", [entity]) for labels in priors
        ]

    for table, where, names in tables:
        wide = [name for name in names if _is_wide(table[name].type())]
        if wide:
            yield table, where, wide


def _is_wide(kind: dt.DataType) -> bool:
    # 2^63 has 19 digits, so decimals of up to 18 digits are always below it.
    return kind.is_uint64() or (
        kind.is_decimal() and (kind.precision is None or kind.precision > 18)
    )


def _check_range(
    table: ir.Table, where: str, columns: Sequence[str], name: str, engine: Engine
) -> None:
    """Raises UserError if a column holds a number beyond int64.

    Args:
        where: a description of the table, for messages.
        columns: the columns to check.
        name: the name of the corpus, for messages.
    """
    numbers: dict[str, ir.Scalar] = {}
    for column in columns:
        wrong = (table[column] > _LARGEST) | (table[column] < _LEAST)
        numbers |= {
            f"{column}_rows": wrong.sum(),
            f"{column}_example": table[column].max(where=wrong),
        }

    totals = engine.to_arrow(table.aggregate(**numbers)).to_pylist()[0]
    for column in columns:
        rows = totals[f"{column}_rows"]
        if rows:
            raise UserError(
                f"corpus '{name}': {column} {totals[f'{column}_example']} of {where}"
                f" is beyond 64-bit integers ({rows:,} such rows):"
                " cast the column to text, or leave such rows out"
            )


def _with_columns(table: ir.Table, changed: Mapping[str, ir.Value]) -> ir.Table:
    """Returns the table with the changed columns."""
    # Without changes, the same object is returned, because an engine stores information about
    # individual table objects.
    return table.mutate(**changed) if changed else table


def _ids(table: ir.Table, names: Sequence[str]) -> dict[str, ir.Value]:
    changed: dict[str, ir.Value] = {}
    for name in names:
        kind = table[name].type()
        if kind.is_uint64() or kind.is_decimal():
            changed[name] = table[name].cast("int64")
        elif not kind.is_integer() and not kind.is_string():
            changed[name] = table[name].cast("string")
    return changed


def _texts(table: ir.Table, names: Iterable[str]) -> dict[str, ir.Value]:
    return {name: table[name].cast("string") for name in names}


def _integers(table: ir.Table, names: Sequence[str]) -> dict[str, ir.Value]:
    return {name: table[name].cast("int64") for name in names if not table[name].type().is_int64()}


def _labels(labels: Labels, entity: str) -> Labels:
    return replace(labels, table=_with_columns(labels.table, _ids(labels.table, [entity])))
