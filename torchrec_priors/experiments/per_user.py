"""Computes the metrics of each individual user from `predictions.parquet`.

`metrics.json` has only the means over all users.

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
_USERS = 4096  # in a part that is read
_TOLERANCE = 1e-9  # metrics.json adds the same numbers in another order


@dataclass(frozen=True)
class PerUserReader:
    """Reads predictions on one data set.

    Attributes:
        ids: the original id of each item, by row of the catalogue.
        category: the categories by which entropy is measured.
    """

    ids: pa.Array
    category: Categories

    @classmethod
    def of(cls, data: PreparedData) -> "PerUserReader":
        """Returns a reader for predictions on a data set."""
        ids = data.catalogue(["item_id"])["item_id"].combine_chunks()
        return cls(ids, Categories.of_prior(data, data.manifest.category_prior))

    def read(
        self,
        predictions: Path,
        metrics: Mapping[str, Any],
        on_part: Callable[[Ranked], None] = lambda _ranked: None,
    ) -> np.ndarray:
        """Computes the metrics in `COMPARED` of every user, float64 [U, M].

        Users are in the order of the file, which is that of the data set.

        Args:
            predictions: the file of the predictions.
            metrics: the metrics of the same evaluation.
            on_part: a function that is called with the lists of each part of the users.

        Raises:
            ValueError: the file has no predictions, or their means differ from `metrics`.
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
        """Reads the first `CUTOFF` items and the targets of all users, part by part."""
        for part in _parts(predictions, metrics):
            row_BR = first_rows(part["items"], CUTOFF, self.ids)
            target_lengths = pc.list_value_length(part["targets"]).to_numpy(zero_copy_only=False)
            targets = rows_of(pc.list_flatten(part["targets"]), self.ids)
            yield Ranked.of(row_BR, targets, target_lengths, len(self.ids))

    def _values(self, ranked: Ranked) -> np.ndarray:
        """Computes the metrics of the users of a part, float64 [B, M]."""
        values = ranked.values(CUTOFF, self.category)
        return np.stack([values[name.partition("@")[0]] for name in COMPARED], 1)


def first_rows(lists: pa.Array, number: int, ids: pa.Array) -> np.ndarray:
    """Finds the rows of the first items of each list, int64 [B, number].

    Shorter lists are filled with -1.

    Args:
        lists: lists of original item ids.
        number: the number of items that are taken from each list.
        ids: the original id of each row of the catalogue.
    """
    first = pc.list_slice(lists, 0, number)
    lengths = pc.list_value_length(first).to_numpy(zero_copy_only=False)
    row_BR = np.full((len(lists), number), -1)
    row_BR[np.arange(number) < lengths[:, None]] = rows_of(pc.list_flatten(first), ids)
    return row_BR


def rows_of(items: pa.Array, ids: pa.Array) -> np.ndarray:
    """Finds the rows of items in the catalogue, int64; both arguments are original ids."""
    return np.asarray(pc.index_in(items, ids).to_numpy(zero_copy_only=False), np.int64)


def _parts(predictions: Path, metrics: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    """Reads targets and recommended items, `_USERS` users at a time."""
    with open_predictions(predictions, metrics) as opened:
        yield from opened.iter_batches(_USERS, ["targets", "items"])
