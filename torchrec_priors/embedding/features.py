"""Side features of items. Each feature has a sharded table; its vectors are added to item vectors.

A feature is a column of `items.parquet`. Texts and integers are categories. `price:32` sorts the
numbers of `price` into 32 groups with about the same number of items. Items without a value have
the feature's last vector.

Shapes: I items of the data set, N items that are looked up, F features, d width.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.common.limits import MOST_GROUPS, check_most, whole_number
from torchrec_priors.embedding.dedup import LookupIds, once
from torchrec_priors.embedding.item_table import table_of
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.settings.table import table_of_feature


@dataclass(frozen=True)
class ItemFeature:
    """One feature.

    Attributes:
        name: column of the catalogue.
        code_I: int64, a code in [0, size) for every item.
        values: the value of each code, as text; the last one is null.
    """

    name: str
    code_I: np.ndarray
    values: pa.Array

    @property
    def size(self) -> int:
        """Number of codes."""
        return len(self.values)


def load_features(
    names: list[str], data: PreparedData, items: int | None = None
) -> list[ItemFeature]:
    """Returns features by name, from the data set's catalogue.

    Args:
        names: columns; the number of groups may follow the name of a column of numbers
            ("price:32").
        data: the data set.
        items: number of items when the model was trained; only values of these items have codes.
            None for all items.

    Raises:
        UserError: a column does not exist, or cannot be cut into groups.
    """
    if not names:
        return []

    # `price` and `price:32` would have the same table.
    columns = [name.partition(":")[0] for name in names]
    for column in columns:
        if columns.count(column) > 1:
            raise UserError(
                f"encoder.item_features: '{column}' is given twice: give each column once"
            )

    catalogue = data.catalogue()
    known_items = len(catalogue) if items is None else items
    return [_feature(name, catalogue, known_items) for name in names]


def _feature(name: str, catalogue: pa.Table, items: int) -> ItemFeature:
    """Returns one feature. Only values of the first `items` items have codes."""
    # Ids do not describe an item, and neither does its frequency in training.
    column, _, groups = name.partition(":")
    usable = [
        field.name
        for field in catalogue.schema
        if field.name not in ("item", "item_id", "frequency")
    ]
    if column not in usable:
        raise UserError(
            f"encoder.item_features: the catalogue has no column '{column}': "
            f"{nearest(column, usable)}"
        )

    values = catalogue[column].combine_chunks()
    if groups:
        numeric = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
        number = whole_number(groups)
        if not numeric or number is None or number < 2:
            raise UserError(
                f"encoder.item_features: '{name}' needs a column of numbers and at least 2 groups"
            )
        check_most(f"encoder.item_features: groups of '{column}'", number, MOST_GROUPS)
        # The group of a number takes the place of its value.
        values = _quantile(values.cast(pa.float64()), number, items)
    elif pa.types.is_nested(values.type):
        raise UserError(
            f"encoder.item_features: column '{column}' holds lists: give one of single values"
        )

    # Codes are in the order of the values. Missing and unknown values share one more code.
    known = pc.unique(values.slice(0, items).drop_null())
    known = known.take(pc.sort_indices(known))
    code = pc.fill_null(pc.index_in(values, known), len(known)).to_numpy(zero_copy_only=False)
    texts = pa.concat_arrays([known.cast(pa.string()), pa.nulls(1, pa.string())])
    return ItemFeature(column, code.astype(np.int64), texts)


def _quantile(values: pa.Array, groups: int, items: int) -> pa.Array:
    """Returns the group of every number, and null for missing numbers.

    Args:
        values: the numbers.
        groups: number of groups.
        items: how many of the first numbers determine the bounds of the groups.
    """
    numbers = values.to_numpy(zero_copy_only=False)
    is_number = np.isfinite(numbers)
    if not is_number[:items].any():
        return pa.nulls(len(values), pa.int64())

    # With quantiles as bounds, groups have about the same number of items for any distribution.
    bounds = np.quantile(numbers[:items][is_number[:items]], np.arange(1, groups) / groups)
    return pa.array(np.searchsorted(bounds, numbers, side="right"), mask=~is_number)


class FeatureTables(nn.Module):
    """The tables of all features. The vector of an item is the sum over its features."""

    def __init__(self, features: list[ItemFeature], dim: int, *, asks_once: bool = False) -> None:
        super().__init__()
        self.keys = [table_of_feature(feature.name) for feature in features]
        configs = [
            EmbeddingConfig(
                name=key, num_embeddings=feature.size, embedding_dim=dim, feature_names=[key]
            )
            for key, feature in zip(self.keys, features, strict=True)
        ]
        self.table = table_of(configs)

        # Codes are not saved: they follow from the data set and the configuration.
        codes = torch.from_numpy(np.stack([feature.code_I for feature in features]))
        self.register_buffer("code_FI", codes, persistent=False)
        self.asks_once = asks_once  # whether repeated codes are looked up once

    code_FI: Tensor

    def forward(self, item_N: Tensor) -> Tensor:
        """Returns the vectors of items, [N, d], from their row ids."""
        return self.vectors_of(self.ids_of(item_N))

    def ids_of(self, item_N: Tensor) -> LookupIds:
        """Returns the codes to look up, with one row for each feature.

        Rows are not histories, because TorchRec rejects a batch without rows, and a rank may have
        no histories.
        """
        lengths = torch.full((len(self.keys),), len(item_N), device=item_N.device)
        ids = KeyedJaggedTensor(
            keys=self.keys, values=self.code_FI[:, item_N].flatten(), lengths=lengths
        )
        if self.asks_once:
            return once(ids)
        return ids, {}

    def vectors_of(self, looked_up: LookupIds) -> Tensor:
        """Looks up codes. Returns the vectors of items, [N, d]."""
        ids, places = looked_up
        answer = self.table(ids)
        vectors = [answer[key].values() for key in self.keys]
        if places:
            vectors = [values[places[key]] for key, values in zip(self.keys, vectors, strict=True)]
        return torch.stack(vectors).sum(0)
