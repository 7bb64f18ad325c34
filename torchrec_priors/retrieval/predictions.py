"""`predictions.parquet`: what every user was recommended, in original ids, with the path that explains each item."""

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
    """Collects every rank's batches on rank 0, which writes them as they come; the file appears when it is whole."""

    def __init__(
        self, file: Path, item_ids: pa.ChunkedArray, path_names: list[str], group: dist.ProcessGroup
    ) -> None:
        """
        Args:
            item_ids: original ids by row.
            path_names: names by path.
            group: ranks that take part; each must add the same number of batches.
        """
        self.file = file
        self.group = group
        self.leads = dist.get_rank(group) == 0
        self._ids = item_ids.combine_chunks()
        self._names = pa.array(path_names)
        self._writer: ParquetWriter | None = None
        self._open = ExitStack()

    def add(self, users: Histories, found: Found) -> None:
        """One round: this rank's users, perhaps none."""
        table = self._table(users, found)
        tables = [table]
        if dist.get_world_size(self.group) > 1:
            collected: list[pa.Table | None] | None = (
                [None] * dist.get_world_size(self.group) if self.leads else None
            )
            dist.gather_object(table, collected, dst=0, group=self.group)
            tables = [part for part in collected or [] if part is not None]
        if self.leads:
            whole = pa.concat_tables(tables)
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
        table = recommendations(users.user_ids, found, self._ids, self._names)
        return table.add_column(
            1, "targets", _lists(self._ids.take(pa.array(users.targets)), users.target_lengths)
        )


def recommendations(
    user_ids: pa.Array, found: Found, item_ids: pa.Array, path_names: pa.Array
) -> pa.Table:
    """What was found, one row a user: `user_id`, and lists `items`, `scores` and `heads`, best first.

    Args:
        item_ids: original ids by row.
        path_names: names by path.
    """
    rows, scores, paths = (
        part.cpu().numpy() for part in (found.row_Bk, found.score_Bk, found.path_Bk)
    )
    shown = rows >= 0
    lengths = shown.sum(1)
    return pa.table(
        {
            "user_id": user_ids,
            "items": _lists(item_ids.take(pa.array(rows[shown])), lengths),
            "scores": _lists(pa.array(scores[shown]), lengths),
            "heads": _lists(path_names.take(pa.array(paths[shown])), lengths),
        }
    )


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values)
