"""Writes the histories of users as files of sequences.

A file has many small row groups, so that several ranks and workers can share it. Each file is a
stage of the preparation: after a kill, finished files are not written again.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.parquet import ParquetWriter
from torchrec_priors.preparation.build import expressions
from torchrec_priors.preparation.build.output_files import OutputFiles
from torchrec_priors.preparation.build.parquet_files import even, lists
from torchrec_priors.preparation.build.split import Split
from torchrec_priors.preparation.engine.engine import Engine

# The number of users in a file. After a kill, at most one file has to be written again.
USERS_A_FILE = 1 << 18
# The number of interactions in a batch. With times and events, this is about 2 MB.
_STEPS_A_BATCH = 1 << 17


def path_of(part: int) -> str:
    return f"sequences/part-{part:05d}.parquet"


def users_a_row_group(users: int) -> int:
    """Returns the number of users per row group for a data set of `users` users."""
    # With 1,024 users or more there are at least 64 row groups, which ranks and workers can share.
    return max(16, min(4096, users // 64))


class WrittenHistories:
    """The sequences of users, in order of user id.

    Args:
        buckets: the results of `expressions.histories` for ranges of users, in order.
        ids: a table with the `item_id` and `item` of all items in these histories.
        groups: a table of (user_id, group) for the column `user_group`. If None, it
            is left out.
    """

    def __init__(
        self,
        engine: Engine,
        buckets: Sequence[ir.Table],
        split: Split,
        ids: ir.Table,
        groups: ir.Table | None = None,
    ) -> None:
        self.engine = engine
        self.buckets = buckets
        self.split = split
        self.ids = ids
        self.groups = groups

    def tables(self, at_once: int, skip: int = 0) -> Iterator[pa.Table]:
        """Yields tables of `at_once` users, without the first `skip` of the kept users."""
        tables = self._of_buckets(at_once, skip)
        first = next(tables, None)
        if first is not None:
            # The last table of a bucket may have fewer users. `even` fills it up with users of the
            # next bucket.
            yield from even(first.schema, _chain(first, tables), at_once)

    def _of_buckets(self, at_once: int, skip: int) -> Iterator[pa.Table]:
        for part in self.buckets:
            kept = expressions.kept(part, self.split)
            users = self.engine.to_arrow(expressions.users(kept, self.groups, self.split))
            # If all users of a bucket are skipped, their interactions are not sorted.
            if skip >= len(users):
                skip -= len(users)
                continue

            users = users.slice(skip)
            skip = 0
            kept = kept.filter(kept.user_id >= users["user_id"][0].as_py())
            steps = self.engine.batches(expressions.steps(kept, self.ids), _STEPS_A_BATCH)
            yield from lists(users, steps, at_once)


def write_sequences(
    output: OutputFiles,
    histories: WrittenHistories,
    users: int,
    report: Callable[[str], None],
    *,
    after_users: int = 0,
    first_part: int = 0,
) -> None:
    """Writes files of `USERS_A_FILE` users each. The last file may have fewer.

    Args:
        users: the number of users in `histories`.
        after_users: the number of users that the data set already has in other files.
        first_part: the index of the first new file.
    """
    files = -(-users // USERS_A_FILE)
    at_once = users_a_row_group(after_users + users)
    names = [path_of(first_part + part) for part in range(files)]

    # Files are finished in order. A run that resumes therefore skips the users of all files before
    # the first unfinished file.
    done = next((part for part, name in enumerate(names) if not output.is_finished(name)), files)
    tables = histories.tables(at_once, done * USERS_A_FILE)

    def write(file: Path) -> None:
        first = next(tables)
        with ParquetWriter(file, first.schema) as writer:
            writer.write_table(first, row_group_size=at_once)
            # Only the users of this file are taken from the iterator. The next call continues with
            # the rest.
            for table in islice(tables, -(-USERS_A_FILE // at_once) - 1):
                writer.write_table(table, row_group_size=at_once)

    for part, name in enumerate(names):
        if part >= done:
            report(f"writing sequences, file {part + 1} of {files}")
        output.make(name, write)


def _chain(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest
