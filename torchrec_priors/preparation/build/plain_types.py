"""A corpus in the few types that everything after it knows: ids are integers or text, times and order int64.

What tells nothing wrong is taken as it is meant: unsigned and decimal whole numbers as int64, dates as ids as their
texts, timestamps and dates as times as milliseconds. What is beyond int64 is refused, as it would be another number.
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
    """Whether numbers of this type are integers."""
    return kind.is_integer() or (kind.is_decimal() and kind.scale == 0)


def is_text(kind: dt.DataType) -> bool:
    """Whether ids of this type are taken as texts."""
    return kind.is_string() or kind.is_date() or kind.is_uuid()


def is_time(kind: dt.DataType) -> bool:
    """Whether times of this type are known without a unit."""
    return kind.is_timestamp() or kind.is_date()


def is_title(kind: dt.DataType) -> bool:
    return (
        is_text(kind) or is_whole(kind) or kind.is_numeric() or kind.is_boolean() or kind.is_null()
    )


def plain(corpus: Corpus, engine: Engine) -> Corpus:
    """The same corpus, of which `check` has seen the types.

    Raises:
        UserError: a number that int64 does not hold.
    """
    for table, where, columns in _numbers(corpus):
        _check_range(table, where, columns, corpus.name, engine)
    log = corpus.interactions
    changed: dict[str, ir.Value] = {
        **_ids(log, ["user_id", "item_id"]),
        **_integers(log, ["order"]),
    }
    time = log.timestamp
    changed |= (
        {"timestamp": milliseconds(time)} if is_time(time.type()) else _integers(log, ["timestamp"])
    )
    if corpus.events and not log.event.type().is_int8():
        changed["event"] = log.event.cast("int64")
    kinds = corpus.items.schema()
    texts = [
        name
        for name in kinds
        if kinds[name].is_null() or (name == "title" and not kinds[name].is_string())
    ]
    return replace(
        corpus,
        interactions=_with(log, changed),
        items=_with(
            corpus.items, {**_ids(corpus.items, ["item_id"]), **_texts(corpus.items, texts)}
        ),
        item_priors=[_labels(labels, "item_id") for labels in corpus.item_priors],
        user_priors=[_labels(labels, "user_id") for labels in corpus.user_priors],
    )


def _numbers(corpus: Corpus) -> Iterator[tuple[ir.Table, str, list[str]]]:
    """Tables with those of their columns whose numbers int64 may not hold."""
    whole = ["user_id", "item_id", "timestamp", "order", *(["event"] if corpus.events else [])]
    tables = [(corpus.interactions, "interactions", whole), (corpus.items, "items", ["item_id"])]
    for several, entity in ((corpus.item_priors, "item_id"), (corpus.user_priors, "user_id")):
        tables += [
            (labels.table, f"the table of prior '{labels.name}'", [entity]) for labels in several
        ]
    for table, where, names in tables:
        wide = [name for name in names if _is_wide(table[name].type())]
        if wide:
            yield table, where, wide


def _is_wide(kind: dt.DataType) -> bool:
    return kind.is_uint64() or (
        kind.is_decimal() and (kind.precision is None or kind.precision > 18)
    )


def _check_range(
    table: ir.Table, where: str, columns: Sequence[str], name: str, engine: Engine
) -> None:
    numbers: dict[str, ir.Scalar] = {}
    for column in columns:
        wrong = (table[column] > _LARGEST) | (table[column] < _LEAST)
        numbers |= {
            f"{column}_rows": wrong.sum(),
            f"{column}_example": table[column].max(where=wrong),
        }
    found = engine.to_arrow(table.aggregate(**numbers)).to_pylist()[0]
    for column in columns:
        if found[f"{column}_rows"]:
            raise UserError(
                f"corpus '{name}': {column} {found[f'{column}_example']} of {where} is beyond 64-bit integers"
                f" ({found[f'{column}_rows']:,} such rows): cast the column to text, or leave such rows out"
            )


def _with(table: ir.Table, changed: Mapping[str, ir.Value]) -> ir.Table:
    """The table itself where nothing changes, so that what an engine knows of it stays valid."""
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
    return replace(labels, table=_with(labels.table, _ids(labels.table, [entity])))


def narrow_events(corpus: Corpus) -> Corpus:
    """Event codes as int8, once they are known to be places in `events`."""
    log = corpus.interactions
    if not corpus.events or log.event.type().is_int8():
        return corpus
    return replace(corpus, interactions=log.mutate(event=log.event.cast("int8")))
