"""Writes `predictions.parquet`: the recommendations of every user, with original ids and paths."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import torch.distributed as dist

from torchrec_priors.common.files import new_file
from torchrec_priors.data.histories import Histories
from torchrec_priors.parquet import ParquetWriter
from torchrec_priors.retrieval.search_types import Found


class PredictionWriter:
    """Collects the batches of all ranks on rank 0, which writes them round by round.

    In a round every rank adds one batch. The file appears under its name only when it is complete.
    """

    def __init__(
        self, file: Path, item_ids: pa.ChunkedArray, path_names: list[str], group: dist.ProcessGroup
    ) -> None:
        """
        Args:
            file: the file to write.
            item_ids: the original ids of the items, in the order of their row ids.
            path_names: the names of the paths, in their order.
            group: the ranks that take part; each must add the same number of batches.
        """
        self.file = file
        self.group = group
        self.leads = dist.get_rank(group) == 0
        self._ids = item_ids.combine_chunks()
        self._names = pa.array(path_names)
        self._writer: ParquetWriter | None = None
        self._open = ExitStack()

    def add(self, users: Histories, found: Found) -> None:
        """Adds this rank's batch of a round, which may have no users."""
        table = self._table(users, found)
        tables = [table]
        # Gathering is a collective, so every rank takes part in every round, even without users.
        world = dist.get_world_size(self.group)
        if world > 1:
            collected: list[pa.Table | None] | None = [None] * world if self.leads else None
            dist.gather_object(table, collected, dst=0, group=self.group)
            tables = [part for part in collected or [] if part is not None]

        if self.leads:
            whole = pa.concat_tables(tables)
            # The first round gives the schema of the file.
            if self._writer is None:
                partial = self._open.enter_context(new_file(self.file))
                self._writer = self._open.enter_context(ParquetWriter(partial, whole.schema))
            self._writer.write_table(whole)

    def __enter__(self) -> "PredictionWriter":
        if self.leads:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def _table(self, users: Histories, found: Found) -> pa.Table:
        """Returns the rows of the file for some users."""
        table = recommendations(users.user_ids, found, self._ids, self._names)
        targets = _lists(self._ids.take(pa.array(users.targets)), users.target_lengths)
        return table.add_column(1, "targets", targets)


def recommendations(
    user_ids: pa.Array, found: Found, item_ids: pa.Array, path_names: pa.Array
) -> pa.Table:
    """Returns a table with one row for each user.

    Its columns are `user_id`, and the lists `items`, `scores` and `heads`, best first.

    Args:
        user_ids: the original ids of the users.
        found: the items that were found for the users.
        item_ids: the original ids of all items, in the order of their row ids.
        path_names: the names of all paths, in their order.
    """
    row_Bk = found.row_Bk.cpu().numpy()
    score_Bk = found.score_Bk.cpu().numpy()
    path_Bk = found.path_Bk.cpu().numpy()

    exists_Bk = row_Bk >= 0
    lengths = exists_Bk.sum(1)
    return pa.table(
        {
            "user_id": user_ids,
            "items": _lists(item_ids.take(pa.array(row_Bk[exists_Bk])), lengths),
            "scores": _lists(pa.array(score_Bk[exists_Bk]), lengths),
            "heads": _lists(path_names.take(pa.array(path_Bk[exists_Bk])), lengths),
        }
    )


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    """Divides values into lists of the given lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values)
