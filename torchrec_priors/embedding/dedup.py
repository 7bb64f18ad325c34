"""Each id once: what a lookup is asked for, and where in the answer the vectors of all ids stand.

TorchRec's own (`use_index_dedup`) is not there on a CPU. The gradient of a vector that is copied is the sum of its
copies' gradients, so training is the same to what float32 rounds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

AskedIds = tuple[
    KeyedJaggedTensor, dict[str, Tensor]
]  # ids as a table is asked for them, and places as of `once`


@dataclass(frozen=True)
class StepIds:
    """What a step asks the tables for. It does not depend on what they hold: it may be known, and sent, before.

    Attributes:
        items: of the item table.
        features: of those of side features; None without any.
    """

    items: AskedIds
    features: AskedIds | None


def once(ids: KeyedJaggedTensor) -> AskedIds:
    """Every feature's ids in one row each, ascending, and for each feature the places of its ids, in their order.

    Example:
        >>> values, lengths = torch.tensor([7, 3, 7, 3]), torch.tensor([2, 1, 0, 1])
        >>> ids = KeyedJaggedTensor(keys=["a", "b"], values=values, lengths=lengths)
        >>> asked, place = once(ids)
        >>> asked.values().tolist(), asked.lengths().tolist(), place["a"].tolist(), place["b"].tolist()
        ([3, 7, 3], [2, 1], [1, 0, 1], [0])
    """
    values = []
    places = {}
    for key, of_key in ids.to_dict().items():
        distinct, places[key] = of_key.values().unique(return_inverse=True)
        values.append(distinct)
    lengths = torch.tensor([len(distinct) for distinct in values], device=ids.device())
    return KeyedJaggedTensor(keys=ids.keys(), values=torch.cat(values), lengths=lengths), places
