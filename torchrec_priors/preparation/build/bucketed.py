"""Divides the log into ranges of users (buckets) that are small enough to be sorted in memory.

In each bucket, interactions are sorted by time, repeated ones are removed, and the rest are
counted. The result is stored as a table in the engine's folder. Memory therefore does not grow with
the log, and after a kill at most one bucket has to be computed again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import ibis.expr.types as ir

from torchrec_priors.preparation.build import expressions
from torchrec_priors.preparation.build.split import Split
from torchrec_priors.preparation.corpus import Corpus
from torchrec_priors.preparation.engine.engine import Engine


@dataclass(frozen=True)
class Bucketed:
    """The log of a corpus, divided into buckets.

    Attributes:
        logs: the interactions of each bucket, as they are in the raw files.
        buckets: the result of `expressions.histories` for each bucket. Buckets are in order of user
            id.
        counts: the results of `expressions.counts` for all buckets in one table. An item may have
            rows from several buckets.
        read: the following numbers, by name. `users` and `interactions` count the whole log without
            repeats, `duplicates` the repeats, and `late` the interactions that were out of order.
            `short_users` counts users with fewer interactions than the corpus requires, and
            `short_interactions` their interactions. `kept_users`, `kept_interactions` and
            `training_interactions` count what is in the data set. Further names are those of
            `Split.parts`.
    """

    logs: list[ir.Table]
    buckets: list[ir.Table]
    counts: ir.Table
    read: dict[str, int]


def bucketed(
    engine: Engine, corpus: Corpus, split: Split, report: Callable[[str], None], prefix: str = ""
) -> Bucketed:
    """Divides the log into buckets. Tables that an earlier run finished are not computed again.

    Args:
        prefix: the beginning of the names of all tables. If an engine has several logs, each of
            them needs a different prefix.
    """
    log = expressions.log(corpus)
    report("counting the interactions of users")
    per_user = log.group_by("user_id").aggregate(n=log.count())
    users = engine.materialise(f"{prefix}raw_users", per_user)
    interactions = int(engine.value(users.n.sum()) or 0)

    # A log that fits into memory is one bucket and is not copied.
    parts = [log]
    rows = _rows_a_bucket(engine)
    if interactions > rows:
        first = engine.materialise(f"{prefix}bounds", expressions.bounds(users, rows))
        bounds = engine.to_arrow(first.order_by("first"))["first"].to_pylist()
        report(f"dividing {interactions:,} interactions into {len(bounds)} ranges of users")
        marked = log.mutate(bucket=expressions.bucket_of(log.user_id, bounds[1:]))
        parts = engine.divide(f"{prefix}log", marked, "bucket", len(bounds))

    buckets = []
    counts = []
    totals = []
    for number, part in enumerate(parts):
        report(f"histories of users, {number + 1} of {len(parts)}")
        # Without times, every interaction of a user has a different `timestamp`, so none is
        # repeated.
        distinct = part
        if corpus.has_times:
            distinct = expressions.without_repeats(part)

        table = engine.materialise(
            f"{prefix}histories_{number}", expressions.histories(distinct, split)
        )
        kept = expressions.kept(table, split)
        counts.append(
            engine.materialise(f"{prefix}counts_{number}", expressions.counts(kept, split))
        )
        totals.append(engine.materialise(f"{prefix}totals_{number}", _totals(table, split)))
        buckets.append(table)

    # Every user is in one bucket only, so the totals of the buckets can be added.
    whole = engine.to_arrow(expressions.union(totals))
    read = {name: sum(whole[name].to_pylist()) for name in whole.column_names}
    read["duplicates"] = interactions - read["interactions"]
    return Bucketed(parts, buckets, expressions.union(counts), read)


def _rows_a_bucket(engine: Engine) -> int:
    """Returns the number of interactions per bucket.

    A run that resumes uses the number of the first run, even if its memory limit is different.
    Otherwise finished tables would not match the new bounds of the buckets.
    """
    noted = engine.journal.finished("rows a bucket")
    if noted is None:
        noted = {"rows": engine.rows_a_bucket}
        engine.journal.finish("rows a bucket", noted=noted)
    return int(noted["rows"])


def _totals(table: ir.Table, split: Split) -> ir.Table:
    """Returns one row with the numbers of users and interactions for `Bucketed.read`."""
    kept = split.keeps(table)
    # In a table of histories, every user has exactly one row at position 0. Counting these rows
    # counts the users.
    first = table.position == 0
    numbers = {
        "users": first,
        "late": table.late & (table.n >= split.least),
        "short_users": first & (table.n < split.least),
        "short_interactions": table.n < split.least,
        "kept_users": kept & first,
        "kept_interactions": kept,
        "training_interactions": kept & (table.position < split.training_end(table)),
    }
    # The counts of the split include kept users only.
    numbers |= {name: kept & flag for name, flag in split.parts(table).items()}

    sums = {
        name: flag.cast("int64").sum().fill_null(0).cast("int64") for name, flag in numbers.items()
    }
    return table.aggregate(interactions=table.count(), **sums)
