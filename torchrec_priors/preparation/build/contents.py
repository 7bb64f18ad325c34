"""Whether the rows of a corpus fit together: no item twice in the catalogue, none outside it, event codes in range."""

import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build import expressions
from torchrec_priors.preparation.build.bucketed import Bucketed
from torchrec_priors.preparation.build.long_histories import none_is_long
from torchrec_priors.preparation.build.split import Split
from torchrec_priors.preparation.corpus import Corpus
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.raw.time_unit import check_unit, unit_numbers


def check_catalogue(engine: Engine, corpus: Corpus) -> None:
    """Raises UserError where an item is in the catalogue more than once, or has no id."""
    unnamed = _first(engine, corpus.items.aggregate(rows=_is_missing(corpus.items.item_id).sum()))[
        "rows"
    ]
    if unnamed:
        raise UserError(
            f"corpus '{corpus.name}': {unnamed:,} rows of its catalogue have no item_id: leave them out"
        )
    counts = corpus.items.group_by("item_id").aggregate(rows=corpus.items.count())
    again = counts.filter(counts.rows > 1)
    found = _first(engine, again.aggregate(items=again.count(), first=again.item_id.min()))
    if found["items"]:
        raise UserError(
            f"corpus '{corpus.name}': its catalogue has item {found['first']!r} twice or more"
            f" ({found['items']:,} such items): keep one row an item"
        )


def check_log(engine: Engine, corpus: Corpus) -> None:
    """Raises UserError where an interaction lacks a value, its event is no place in `events`, or its time is none."""
    log = expressions.log(corpus)
    wanted = [name for name in log.columns if name != "event"]
    numbers = {f"no_{name}": _is_missing(log[name]).sum() for name in wanted}
    numbers |= unit_numbers(log.timestamp) if corpus.has_times else {}
    if corpus.events:
        event = log.event
        wrong = event.isnull() | (event < 0) | (event >= len(corpus.events))
        numbers |= {"wrong": wrong.sum(), "example": event.min(where=wrong)}
    found = _first(engine, log.aggregate(**numbers))
    for name in wanted:
        if found[f"no_{name}"]:
            raise UserError(
                f"corpus '{corpus.name}': {found[f'no_{name}']:,} interactions have no {name}: leave such rows out in"
                " the corpus file (keep_valid)"
            )
    if found.get("wrong"):
        example = "none" if found["example"] is None else found["example"]
        raise UserError(
            f"corpus '{corpus.name}': {found['wrong']:,} interactions have an event code outside 0 to"
            f" {len(corpus.events) - 1}, such as {example}: codes are places in `events` ({', '.join(corpus.events)})"
        )
    if corpus.has_times:
        check_unit(corpus.name, found)


def check_items(engine: Engine, corpus: Corpus, counts: ir.Table) -> None:
    """Raises UserError where an interaction of kept users is with an item that the catalogue has not.

    Args:
        counts: `item_id` and `rows`, its interactions of kept users.
    """
    outside = counts.anti_join(corpus.items, "item_id")
    found = _first(
        engine, outside.aggregate(rows=outside.rows.sum(), items=outside.item_id.nunique())
    )
    if found["items"]:
        log = corpus.interactions.semi_join(outside, "item_id")
        first = engine.to_arrow(log.order_by("order").select("item_id").limit(1))["item_id"][
            0
        ].as_py()
        raise UserError(
            f"corpus '{corpus.name}': {found['rows']:,} interactions with items outside its catalogue"
            f" ({found['items']:,} items, first {first!r}):"
            " leave such rows out in the corpus file (keep_valid), or add the items to the catalogue"
        )


def no_user(engine: Engine, corpus: Corpus, split: Split, log: Bucketed, dropped: int) -> UserError:
    """What to say where no user is left.

    Args:
        dropped: rows that could not be read.
    """
    read = log.read
    if read["interactions"] == 0:
        after = f" after {dropped:,} dropped rows" if dropped else ""
        return UserError(
            f"corpus '{corpus.name}': its log holds no interaction{after}: look at the files in --raw"
        )
    if read["short_users"] == read["users"]:
        longest = max(engine.value(bucket.n.max()) or 0 for bucket in log.buckets)
        return none_is_long(read["users"], split.least, int(longest))
    return UserError(f"no user of {read['users']} has {split.asked}")


def _is_missing(column: ir.Column) -> ir.BooleanColumn:
    """Whether there is no value; an id that is an empty text is none, as nothing could name it."""
    missing: ir.BooleanColumn = column.isnull()
    return missing | (column == "") if column.type().is_string() else missing


def _first(engine: Engine, table: ir.Table) -> dict:
    row: dict = engine.to_arrow(table).to_pylist()[0]
    return row
