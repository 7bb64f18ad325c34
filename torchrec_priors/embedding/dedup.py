"""Looks up each id once: the distinct ids, and where each id's vector is in the answer.

TorchRec's own way (`use_index_dedup`) does not exist on a CPU. The gradient of a vector that is
copied is the sum of its copies' gradients, so training is the same up to what float32 rounds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

# Ids to look up, and for each feature the places of its ids as `once` returns them; no places if
# each id is looked up as often as it occurs.
LookupIds = tuple[KeyedJaggedTensor, dict[str, Tensor]]


@dataclass(frozen=True)
class StepIds:
    """The ids that a step looks up. They do not depend on the tables' values, so they may be known,
    and sent, before the step.

    Attributes:
        items: ids for the item table.
        features: ids for the tables of side features; None without any.
    """

    items: LookupIds
    features: LookupIds | None


def once(ids: KeyedJaggedTensor) -> LookupIds:
    """The distinct ids of each feature in one row, ascending, and for each feature the places of
    its ids among them, in the ids' order.

    Example:
        >>> values, lengths = torch.tensor([7, 3, 7, 3]), torch.tensor([2, 1, 0, 1])
        >>> ids = KeyedJaggedTensor(keys=["a", "b"], values=values, lengths=lengths)
        >>> distinct, place = once(ids)
        >>> distinct.values().tolist(), distinct.lengths().tolist()
        ([3, 7, 3], [2, 1])
        >>> place["a"].tolist(), place["b"].tolist()
        ([1, 0, 1], [0])
    """
    # Each feature by itself, as its ids are rows of its own table.
    values = []
    places = {}
    for key, ids_of_key in ids.to_dict().items():
        distinct, places[key] = ids_of_key.values().unique(return_inverse=True)
        values.append(distinct)

    lengths = torch.tensor([len(distinct) for distinct in values], device=ids.device())
    return KeyedJaggedTensor(keys=ids.keys(), values=torch.cat(values), lengths=lengths), places
