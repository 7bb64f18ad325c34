"""Values of single users, from `predictions.parquet`; `metrics.json` has their means.

Shapes: U users, B users of a part of the file, R places of a list, M metrics.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import Ranked
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.retrieval.read_predictions import open_predictions

CUTOFF = 10
COMPARED = tuple(f"{name}@{CUTOFF}" for name in ("ndcg", "recall", "entropy"))
_USERS = 4096  # read at a time
_TOLERANCE = 1e-9  # metrics.json adds up in another order


@dataclass(frozen=True)
class PerUserReader:
    """Reads predictions over one data set.

    Attributes:
        ids: original item ids by row.
        category: the categories that entropy is measured on.
    """

    ids: pa.Array
    category: Categories

    @classmethod
    def of(cls, data: PreparedData) -> "PerUserReader":
        """A reader of predictions over a data set."""
        ids = data.catalogue(["item_id"])["item_id"].combine_chunks()
        return cls(ids, Categories.of_prior(data, data.manifest.category_prior))

    def read(
        self,
        predictions: Path,
        metrics: Mapping[str, Any],
        on_part: Callable[[Ranked], None] = lambda _ranked: None,
    ) -> np.ndarray:
        """float64 [U, M]: `COMPARED` of every user, in the file's order, which is the data set's.

        Args:
            on_part: called with the lists of each part of the users, as they are read.

        Raises:
            ValueError: the file has no predictions, or its means are not what `metrics` says.
        """
        parts = []
        for ranked in self._ranked(predictions, metrics):
            parts.append(self._values(ranked))
            on_part(ranked)
        values_UM = np.concatenate(parts)

        # Predictions of an older evaluation may be next to newer metrics.
        for name, mean in zip(COMPARED, values_UM.mean(0), strict=True):
            if abs(mean - metrics[name]) > _TOLERANCE:
                raise ValueError(
                    f"{name} is {mean} over {predictions} and {metrics[name]} in metrics.json "
                    "next to it"
                )
        return values_UM

    def _ranked(self, predictions: Path, metrics: Mapping[str, Any]) -> Iterator[Ranked]:
        """The first `CUTOFF` items of the users' lists with their targets, part by part."""
        for part in _parts(predictions, metrics):
            row_BR = first_rows(part["items"], CUTOFF, self.ids)
            target_lengths = pc.list_value_length(part["targets"]).to_numpy(zero_copy_only=False)
            targets = rows_of(pc.list_flatten(part["targets"]), self.ids)
            yield Ranked.of(row_BR, targets, target_lengths, len(self.ids))

    def _values(self, ranked: Ranked) -> np.ndarray:
        values = ranked.values(CUTOFF, self.category)
        return np.stack([values[name.partition("@")[0]] for name in COMPARED], 1)


def first_rows(lists: pa.Array, number: int, ids: pa.Array) -> np.ndarray:
    """int64 [B, number]: rows of the first items of each list; -1 after the end of a shorter one.

    Args:
        lists: of original item ids.
        ids: original item ids by row.
    """
    first = pc.list_slice(lists, 0, number)
    lengths = pc.list_value_length(first).to_numpy(zero_copy_only=False)
    row_BR = np.full((len(lists), number), -1)
    row_BR[np.arange(number) < lengths[:, None]] = rows_of(pc.list_flatten(first), ids)
    return row_BR


def rows_of(items: pa.Array, ids: pa.Array) -> np.ndarray:
    """int64: the rows of items, both by their original ids."""
    return np.asarray(pc.index_in(items, ids).to_numpy(zero_copy_only=False), np.int64)


def _parts(predictions: Path, metrics: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    with open_predictions(predictions, metrics) as opened:
        yield from opened.iter_batches(_USERS, ["targets", "items"])
