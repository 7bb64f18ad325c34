"""Checks that the rows of a corpus fit together.

An item may be in the catalogue only once. Interactions must refer to items in the catalogue. Event
codes must be in range, and times must be valid.
"""

import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build import expressions
from torchrec_priors.preparation.build.bucketed import Bucketed
from torchrec_priors.preparation.build.long_histories import none_is_long
from torchrec_priors.preparation.build.split import Split
from torchrec_priors.preparation.build.time_unit import check_unit, unit_numbers
from torchrec_priors.preparation.corpus import Corpus
from torchrec_priors.preparation.engine.engine import Engine


def check_catalogue(engine: Engine, corpus: Corpus) -> None:
    """Raises UserError if an item is in the catalogue more than once, or has no id."""
    missing = corpus.items.aggregate(rows=_is_missing(corpus.items.item_id).sum())
    unnamed = _first_row(engine, missing)["rows"]
    if unnamed:
        raise UserError(
            f"corpus '{corpus.name}': {unnamed:,} rows of its catalogue have no item_id:"
            " leave them out"
        )

    counts = corpus.items.group_by("item_id").aggregate(rows=corpus.items.count())
    repeated = counts.filter(counts.rows > 1)
    totals = _first_row(
        engine, repeated.aggregate(items=repeated.count(), first=repeated.item_id.min())
    )
    if totals["items"]:
        raise UserError(
            f"corpus '{corpus.name}': its catalogue has item {totals['first']!r} more than once"
            f" ({totals['items']:,} such items): keep one row per item"
        )


def check_log(engine: Engine, corpus: Corpus) -> None:
    """Checks the values of interactions.

    Raises:
        UserError: an interaction lacks a value, its event code is outside `events`, or its time
            is invalid.
    """
    log = expressions.log(corpus)
    required = [name for name in log.columns if name != "event"]
    numbers = {f"no_{name}": _is_missing(log[name]).sum() for name in required}
    if corpus.has_times:
        numbers |= unit_numbers(log.timestamp)
    # `wrong` counts missing event codes, too.
    if corpus.events:
        event = log.event
        wrong = event.isnull() | (event < 0) | (event >= len(corpus.events))
        numbers |= {"wrong": wrong.sum(), "example": event.min(where=wrong)}

    # One query computes all checks, because each query reads the whole log.
    totals = _first_row(engine, log.aggregate(**numbers))
    for name in required:
        missing = totals[f"no_{name}"]
        if missing:
            raise UserError(
                f"corpus '{corpus.name}': {missing:,} interactions have no {name}:"
                " leave such rows out in the corpus file (keep_valid)"
            )
    if totals.get("wrong"):
        example = "none" if totals["example"] is None else totals["example"]
        raise UserError(
            f"corpus '{corpus.name}': {totals['wrong']:,} interactions have an event code"
            f" outside 0 to {len(corpus.events) - 1}, such as {example}:"
            f" codes are indices into `events` ({', '.join(corpus.events)})"
        )
    if corpus.has_times:
        check_unit(corpus.name, totals)


def check_items(engine: Engine, corpus: Corpus, counts: ir.Table) -> None:
    """Raises UserError if a kept user interacted with an item outside the catalogue.

    Args:
        counts: a table of `item_id` and `rows`, the number of interactions of kept users with the
            item.
    """
    outside = counts.anti_join(corpus.items, "item_id")
    totals = _first_row(
        engine, outside.aggregate(rows=outside.rows.sum(), items=outside.item_id.nunique())
    )
    if not totals["items"]:
        return

    # The message names the item outside the catalogue that comes first in the raw files.
    log = corpus.interactions.semi_join(outside, "item_id")
    example = engine.to_arrow(log.order_by("order").select("item_id").limit(1))
    first = example["item_id"][0].as_py()
    raise UserError(
        f"corpus '{corpus.name}': {totals['rows']:,} interactions with items outside its catalogue"
        f" ({totals['items']:,} items, first {first!r}):"
        " leave such rows out in the corpus file (keep_valid), or add the items to the catalogue"
    )


def no_user(engine: Engine, corpus: Corpus, split: Split, log: Bucketed, dropped: int) -> UserError:
    """Returns the error for a log in which no user is kept.

    Args:
        dropped: the number of bad rows that were dropped.
    """
    read = log.read
    if read["interactions"] == 0:
        after = f" after {dropped:,} dropped rows" if dropped else ""
        return UserError(
            f"corpus '{corpus.name}': its log holds no interaction{after}:"
            " look at the files in --raw"
        )

    # If all users have fewer interactions than the corpus requires, the user should change the
    # option of the corpus, not the horizon.
    if read["short_users"] == read["users"]:
        longest = max(engine.value(bucket.n.max()) or 0 for bucket in log.buckets)
        return none_is_long(read["users"], split.least, int(longest))
    return UserError(f"no user of {read['users']} has {split.requirement}")


def _is_missing(column: ir.Column) -> ir.BooleanColumn:
    """Returns whether a value is missing. An empty text is missing: it is not an id."""
    missing: ir.BooleanColumn = column.isnull()
    if column.type().is_string():
        return missing | (column == "")
    return missing


def _first_row(engine: Engine, table: ir.Table) -> dict:
    row: dict = engine.to_arrow(table).to_pylist()[0]
    return row
