"""Reads a log in tables with an engine, and returns a `Corpus`, as a corpus file does.

1. The first file of each table shows how it is written: delimiter, types, the form of times.
2. The engine reads the tables. Ids become integers if all of them can; otherwise they stay text.
3. Rows that break a rule are rejected or counted, as in every corpus.
4. What was understood is described in lines for users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.rule import Rule
from torchrec_priors.preparation.engine.source import ORDER
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.table import words
from torchrec_priors.preparation.table.columns import labels_of, of_kind, text_of
from torchrec_priors.preparation.table.description import ItemLabel, Kind, Known, Table
from torchrec_priors.preparation.table.entities import (
    Entities,
    columns_of_items,
    read_items,
    read_users,
)
from torchrec_priors.preparation.table.log import FIRST, LAST, Log, read_log

# Without labels, all items are in the only group of this prior.
_CATEGORY = "category"
_ALL = "all items"
# A model predicts this number of items if `--horizon` is not given.
_HORIZON = 2


@dataclass(frozen=True)
class Loaded:
    """What was read from raw files.

    Attributes:
        corpus: the corpus.
        understood: lines for users that say how tables were read.
    """

    corpus: Corpus
    understood: list[str]


def load(table: Table, known: Known | None, bad_rows: BadRows, engine: Engine) -> Loaded:
    """Reads the tables. The places in `table` must be local.

    Args:
        table: the files and the meaning of their columns.
        known: what the data set has decided to which the tables are appended.
        bad_rows: handles bad rows.
        engine: reads the files.

    Raises:
        UserError: a file or a column is missing, times are not recognised, or a row is bad.
    """
    log = read_log(table, engine, bad_rows)
    items = read_items(table, engine, bad_rows)
    users = read_users(table, engine, bad_rows)

    facts = log.facts(engine)
    log.check_times(facts, bad_rows)
    of_items = [] if items is None else [items]
    known_users, known_items = None, None
    if known is None:
        events = log.events(engine)
    else:
        known_users, known_items = known.user_id, known.item_id
        events = known.events
    user_kind = _kind(facts.users, users, known_users, engine)
    item_kind = _kind(facts.items, of_items, known_items, engine)

    listed = None
    if items is not None:
        listed = items.valid(item_kind, engine, bad_rows, "item_id")
    rows = log.rows.mutate(
        **{
            table.user.log: of_kind(log.rows[table.user.log], user_kind),
            table.item.log: of_kind(log.rows[table.item.log], item_kind),
        }
    )
    rules = _rules(log, rows, events)
    if items is not None and listed is not None:
        allowed = listed.select(**{table.item.log: listed.item_id})
        rules.append(Rule(table.item.log, f"must be listed in {items.files.name}", allowed))
    rows = engine.keep_all_valid(rows, rules, bad_rows)
    catalogue = _items_of_log(table, rows, engine) if listed is None else listed

    corpus = Corpus(
        name=table.name,
        interactions=_interactions(table, rows, events),
        items=_titled(table, catalogue),
        category_prior=table.labels[0].column if table.labels else _CATEGORY,
        default_horizon=_HORIZON,
        has_times=not log.is_ordered_only,
        events=events,
        event_prior=table.event,
        item_priors=_item_priors(table, catalogue),
        user_priors=_user_priors(users, user_kind, engine, bad_rows),
        user_group=next(iter(table.user_labels), None),
    )

    understood = words.of_log(log, facts, user_kind, item_kind, events)
    if items is not None:
        understood += words.of_items(table, items.files, items.number_of_rows(engine))
    for entities in users:
        rows_read = entities.number_of_rows(engine)
        understood += words.of_users(entities.files, rows_read, entities.labels)
    return Loaded(corpus, understood)


def _kind(
    in_log: bool | None, others: Sequence[Entities], known: Kind | None, engine: Engine
) -> Kind:
    """Returns the kind of ids: integers if all ids in all tables can be."""
    if known == "text" or in_log is False:
        return "text"
    if all(entities.can_be_integers(engine) for entities in others):
        return "integer"
    return "text"


def _rules(log: Log, rows: ir.Table, events: Sequence[str]) -> list[Rule]:
    """Returns the rules that rows of the log must fulfil. The first broken one is reported."""
    table = log.table
    required = [table.user.log, table.item.log, table.time]
    if table.event is not None:
        required.append(table.event)
    rules = [Rule(name, "must have a value", rows[name].notnull()) for name in required]

    if not log.is_ordered_only:
        is_usual = rows[table.time].between(FIRST, LAST)
        rules.append(Rule(table.time, "must be in the years 1971 to 2199", is_usual))
    if table.event is not None:
        allowed = rows[table.event].isin(list(events))
        rules.append(Rule(table.event, f"must be one of {', '.join(events)}", allowed))
    return rules


def _items_of_log(table: Table, rows: ir.Table, engine: Engine) -> ir.Table:
    """Returns the items of the log. The first row of an item has its title and labels."""
    first = rows.group_by(table.item.log).aggregate(**{ORDER: rows[ORDER].min()}).select(ORDER)
    firsts = rows.semi_join(engine.materialise("table_first_rows", first), ORDER)
    columns = {name: firsts[name] for name in columns_of_items(table)}
    items = firsts.select(**{**columns, "item_id": firsts[table.item.log]})
    return engine.materialise("table_items", items)


def _titled(table: Table, catalogue: ir.Table) -> ir.Table:
    title = catalogue.item_id.cast("string")
    if table.title is not None:
        title = text_of(catalogue[table.title]).fill_null("")
    return catalogue.select("item_id", title=title)


def _item_priors(table: Table, catalogue: ir.Table) -> list[Labels]:
    if not table.labels:
        one = catalogue.select("item_id", label=ibis.literal(_ALL))
        return [Labels(_CATEGORY, one, _ALL)]
    return [
        Labels(label.column, labels_of(catalogue, "item_id", label), f"no {label.column}")
        for label in table.labels
    ]


def _user_priors(
    users: Sequence[Entities], kind: Kind, engine: Engine, bad_rows: BadRows
) -> list[Labels]:
    priors = []
    for entities in users:
        rows = entities.valid(kind, engine, bad_rows, "user_id")
        for label in entities.labels:
            labels = labels_of(rows, "user_id", ItemLabel(label))
            priors.append(Labels(label, labels, f"no {label}"))
    return priors


def _interactions(table: Table, rows: ir.Table, events: Sequence[str]) -> ir.Table:
    columns: dict[str, ir.Value] = {
        "user_id": rows[table.user.log],
        "item_id": rows[table.item.log],
        "timestamp": rows[table.time],
        ORDER: rows[ORDER],
    }
    if table.event is not None:
        # The codes of events are their positions.
        codes = [(name, code) for code, name in enumerate(events)]
        columns["event"] = rows[table.event].cases(*codes).cast("int8")
    return rows.select(**columns)
