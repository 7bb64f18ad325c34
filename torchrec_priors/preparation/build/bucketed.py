"""The log in ranges of users (buckets), each small enough to be sorted in memory.

Interactions are put in order of time, repeated ones are removed, and the rest is counted. The
result is a table per bucket in the engine's folder, so memory does not grow with the log, and a
kill costs one bucket.
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
    """The log of a corpus.

    Attributes:
        logs: the interactions of each bucket, as in the raw files.
        buckets: `expressions.histories` of each bucket, in order of user id.
        counts: `expressions.counts` of all buckets together; an item may have several rows.
        read: how many there are of: `users` and `interactions` in the raw files, `duplicates`
            among them, and interactions that are `late` in the raw files; `short_users`, with
            fewer interactions than the corpus asks for, and their `short_interactions`;
            `kept_users`, `kept_interactions` and `training_interactions`; and the `parts` of the
            split.
    """

    logs: list[ir.Table]
    buckets: list[ir.Table]
    counts: ir.Table
    read: dict[str, int]


def bucketed(
    engine: Engine, corpus: Corpus, split: Split, report: Callable[[str], None], prefix: str = ""
) -> Bucketed:
    """Divides the log; tables that an earlier run finished are not computed again.

    Args:
        prefix: prefix of the names of the tables, needed if an engine has several logs.
    """
    log = expressions.log(corpus)
    report("counting the interactions of users")
    per_user = log.group_by("user_id").aggregate(n=log.count())
    users = engine.materialise(f"{prefix}raw_users", per_user)
    interactions = int(engine.value(users.n.sum()) or 0)

    # A log that fits is one bucket, and is not copied.
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
        # Without times `timestamp` differs for every interaction of a user: none is repeated.
        once = part
        if corpus.has_times:
            once = expressions.without_repeats(part)

        table = engine.materialise(
            f"{prefix}histories_{number}", expressions.histories(once, split)
        )
        kept = expressions.kept(table, split)
        counts.append(
            engine.materialise(f"{prefix}counts_{number}", expressions.counts(kept, split))
        )
        totals.append(engine.materialise(f"{prefix}totals_{number}", _totals(table, split)))
        buckets.append(table)

    # Users are in one bucket each, so the totals of buckets add up.
    whole = engine.to_arrow(expressions.union(totals))
    read = {name: sum(whole[name].to_pylist()) for name in whole.column_names}
    read["duplicates"] = interactions - read["interactions"]
    return Bucketed(parts, buckets, expressions.union(counts), read)


def _rows_a_bucket(engine: Engine) -> int:
    """Interactions per bucket.

    A run that resumes takes the number of the first run, which may have had another memory limit:
    tables that are finished keep their bounds.
    """
    noted = engine.journal.finished("rows a bucket")
    if noted is None:
        noted = {"rows": engine.rows_a_bucket}
        engine.journal.finish("rows a bucket", noted=noted)
    return int(noted["rows"])


def _totals(table: ir.Table, split: Split) -> ir.Table:
    """One row: users and interactions, before and after short histories are left out."""
    kept = split.keeps(table)
    # A table of histories has exactly one row at position 0 per user: counting these rows counts
    # users.
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
    # What the split counts is counted of kept users.
    numbers |= {name: kept & flag for name, flag in split.parts(table).items()}

    sums = {
        name: flag.cast("int64").sum().fill_null(0).cast("int64") for name, flag in numbers.items()
    }
    return table.aggregate(interactions=table.count(), **sums)
