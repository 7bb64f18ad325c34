"""Removes repeated ids before a lookup, and says where the vector of each original id is.

Ids of items that have no row in the table are removed, too.

TorchRec's option for this (`use_index_dedup`) does not exist on CPUs. A vector that is copied gets
the sum of the gradients of its copies, so training is the same except for rounding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

# Ids to look up and, for each feature, the places that `once` or `in_table` returns. There are no
# places if each id is looked up as often as it occurs.
LookupIds = tuple[KeyedJaggedTensor, dict[str, Tensor]]


@dataclass(frozen=True)
class StepIds:
    """The ids that a step looks up.

    They do not depend on the values of the tables, so they can be computed and sent before the
    step.

    Attributes:
        items: ids for the item table.
        features: ids for the tables of side features; None if there are none.
    """

    items: LookupIds
    features: LookupIds | None


def in_table(ids: KeyedJaggedTensor, rows: int) -> LookupIds:
    """Returns the ids that have a row, and the place of every original id among them.

    Args:
        ids: ids with a single key.
        rows: the number of rows of the table. Larger ids have no row, and the place -1.

    Example:
        >>> values, lengths = torch.tensor([7, 3, 9]), torch.tensor([2, 1])
        >>> held, place = in_table(KeyedJaggedTensor(["a"], values, lengths=lengths), 8)
        >>> held.values().tolist(), held.lengths().tolist(), place["a"].tolist()
        ([7, 3], [2], [0, 1, -1])
    """
    (key,) = ids.keys()
    values = ids.values()
    is_in_table = values < rows
    place = torch.where(is_in_table, is_in_table.cumsum(0) - 1, -1)
    held = values[is_in_table]
    lengths = torch.tensor([len(held)], device=ids.device())
    return KeyedJaggedTensor(keys=[key], values=held, lengths=lengths), {key: place}


def once(ids: KeyedJaggedTensor) -> LookupIds:
    """Returns the distinct ids of each feature, and the place of every original id among them.

    The distinct ids of a feature are one row, in ascending order.

    Example:
        >>> values, lengths = torch.tensor([7, 3, 7, 3]), torch.tensor([2, 1, 0, 1])
        >>> ids = KeyedJaggedTensor(keys=["a", "b"], values=values, lengths=lengths)
        >>> distinct, place = once(ids)
        >>> distinct.values().tolist(), distinct.lengths().tolist()
        ([3, 7, 3], [2, 1])
        >>> place["a"].tolist(), place["b"].tolist()
        ([1, 0, 1], [0])
    """
    # Each feature is handled separately, because each has its own table.
    values = []
    places = {}
    for key, ids_of_key in ids.to_dict().items():
        distinct, places[key] = ids_of_key.values().unique(return_inverse=True)
        values.append(distinct)

    lengths = torch.tensor([len(distinct) for distinct in values], device=ids.device())
    return KeyedJaggedTensor(keys=ids.keys(), values=torch.cat(values), lengths=lengths), places
