"""Whether the rows of a corpus fit together: no item twice in the catalogue, none outside it, event codes in range."""

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus


def check_catalogue(engine: Backend, corpus: Corpus) -> None:
    """Raises UserError where an item is in the catalogue more than once."""
    counts = corpus.items.group_by("item_id").aggregate(rows=corpus.items.count())
    again = counts.filter(counts.rows > 1)
    found = _first(engine, again.aggregate(items=again.count(), first=again.item_id.min()))
    if found["items"]:
        raise UserError(
            f"corpus '{corpus.name}': its catalogue has item {found['first']!r} twice or more"
            f" ({found['items']:,} such items): keep one row an item"
        )


def check_events(engine: Backend, corpus: Corpus) -> None:
    """Raises UserError where an event is no place in `events`."""
    if not corpus.events:
        return
    event = corpus.interactions.event
    wrong = corpus.interactions.filter(event.isnull() | (event < 0) | (event >= len(corpus.events)))
    found = _first(engine, wrong.aggregate(rows=wrong.count(), example=wrong.event.min()))
    if found["rows"]:
        example = "none" if found["example"] is None else found["example"]
        raise UserError(
            f"corpus '{corpus.name}': {found['rows']:,} interactions have an event code outside 0 to"
            f" {len(corpus.events) - 1}, such as {example}: codes are places in `events` ({', '.join(corpus.events)})"
        )


def check_items(engine: Backend, corpus: Corpus, kept: ir.Table) -> None:
    """Raises UserError where an interaction of `kept` is with an item that the catalogue has not."""
    outside = kept.anti_join(corpus.items, "item_id")
    found = _first(
        engine,
        outside.aggregate(
            rows=outside.count(), items=outside.item_id.nunique(), first=outside.item_id.argmin(outside["order"])
        ),
    )
    if found["rows"]:
        raise UserError(
            f"corpus '{corpus.name}': {found['rows']:,} interactions with items outside its catalogue"
            f" ({found['items']:,} items, first {found['first']!r}):"
            " leave such rows out in the corpus file (keep_valid), or add the items to the catalogue"
        )


def no_user(corpus: Corpus, horizon: int, read: Mapping[str, int], dropped: int) -> UserError:
    """What to say where no user is left.

    Args:
        read: `users` and `interactions` of the whole log.
        dropped: rows that could not be read.
    """
    if read["interactions"] == 0:
        after = f" after {dropped:,} dropped rows" if dropped else ""
        return UserError(f"corpus '{corpus.name}': its log holds no interaction{after}: look at the files in --raw")
    return UserError(f"no user of {read['users']} has more than {2 * horizon} interactions: choose a smaller --horizon")


def _first(engine: Backend, table: ibis.Table) -> dict:
    row: dict = engine.to_pyarrow(table).to_pylist()[0]
    return row
