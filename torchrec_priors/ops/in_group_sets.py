"""The input of an in-group softmax: positives of queries, and the negatives of their item sets.

Shapes: M positives sorted by query; X item vectors, from which positives are taken; S item sets;
P queries sorted by item set; n negatives in all, one set after another, the shared ones last.
"""

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchrec_priors.ops.ranges import numbers


@dataclass(frozen=True)
class NegativeSets:
    """The negatives of every item set, and the negatives that all queries share.

    Attributes:
        vectors_nd: vectors of the negatives; queries are multiplied with them.
        ids_n: int64 row ids, ascending within a set and within the shared negatives.
        counts_S: number of negatives of each set.
        shared: number of negatives that all queries share. `counts_S` and `shared` add up to n.
        shifts_n: numbers that are added to the negatives' logits, the same for all copies of an id
            in a set. With shifts of -log(expected copies), the sum over negatives is an unbiased
            estimate of the sum over all eligible items (logQ correction). None adds nothing, as in
            Eq. 7.
        first_S1: int64, the first negative of each set, and the number of all negatives in sets; on
            the device of the vectors. None if nobody has copied it there yet.
    """

    vectors_nd: Tensor
    ids_n: Tensor
    counts_S: list[int]
    shared: int = 0
    shifts_n: Tensor | None = None
    first_S1: Tensor | None = None

    def on_device(self) -> "NegativeSets":
        """Returns the same negatives with `first_S1`."""
        if self.first_S1 is not None:
            return self
        first_S1 = torch.tensor(
            [0, *itertools.accumulate(self.counts_S)], device=self.vectors_nd.device
        )
        return replace(self, first_S1=first_S1)


@dataclass(frozen=True)
class QuerySets:
    """The item sets of queries that are sorted by item set, on the device of the queries.

    Attributes:
        set_P: int64, the item set of each query.
        first_S1: int64, the first query of each set; the last entry is P.
    """

    set_P: Tensor
    first_S1: Tensor

    @classmethod
    def of(cls, counts_S: list[int], device: torch.device) -> "QuerySets":
        """Makes the sets from the number of queries of each set."""
        first_S1 = torch.tensor([0, *itertools.accumulate(counts_S)], device=device)
        number_S = torch.arange(len(counts_S), device=device)
        set_P = torch.repeat_interleave(number_S, first_S1.diff(), output_size=sum(counts_S))
        return cls(set_P, first_S1)

    def counts(self) -> list[int]:
        """Returns the number of queries of each set. The host waits for the device."""
        counts_S: list[int] = self.first_S1.diff().tolist()
        return counts_S


@dataclass(frozen=True)
class WeighedPositives:
    """The positives: items that queries should find.

    Attributes:
        item_Xd: item vectors.
        source_M: index of each positive's item vector.
        id_M: row id of each positive.
        query_M: query of each positive, ascending.
        weight_M: weight of each positive in the loss.
    """

    item_Xd: Tensor
    source_M: Tensor
    id_M: Tensor
    query_M: Tensor
    weight_M: Tensor

    def __len__(self) -> int:
        return len(self.query_M)

    def chosen(self, which: Tensor | slice) -> "WeighedPositives":
        """Returns some of the positives.

        Args:
            which: their indices, or a slice.
        """
        return WeighedPositives(
            item_Xd=self.item_Xd,
            source_M=self.source_M[which],
            id_M=self.id_M[which],
            query_M=self.query_M[which],
            weight_M=self.weight_M[which],
        )


def own_copies(id_M: Tensor, set_M: Tensor, negatives: NegativeSets, dtype: torch.dtype) -> Tensor:
    """Returns the sum of e^shift over each positive's copies among its query's negatives, [M].

    Args:
        id_M: row id of each positive.
        set_M: item set of each positive's query.
        negatives: the negatives of all sets.
        dtype: type of the result.
    """
    in_sets = slice(0, sum(negatives.counts_S))
    copies_M = _copies(id_M, set_M, negatives, in_sets, negatives.counts_S, dtype)

    if negatives.shared:
        shared = slice(in_sets.stop, None)
        one_set_M = torch.zeros_like(set_M)
        copies_M += _copies(id_M, one_set_M, negatives, shared, [negatives.shared], dtype)
    return copies_M


def _copies(
    id_M: Tensor,
    set_M: Tensor,
    negatives: NegativeSets,
    pool: slice,
    counts_S: list[int],
    dtype: torch.dtype,
) -> Tensor:
    """Returns `own_copies` for a part of the negatives.

    Args:
        pool: that part of the negatives.
        counts_S: number of negatives of each set in that part.
    """
    ids_n = negatives.ids_n[pool]
    if not len(ids_n) or not len(id_M):
        return torch.zeros_like(id_M, dtype=dtype)

    # Set and id become one number that ascends with the negatives: copies are next to each other.
    span = torch.maximum(ids_n.amax(), id_M.amax()) + 1
    keys_n = numbers(torch.tensor(counts_S, device=id_M.device)) * span + ids_n
    keys_M = set_M * span + id_M
    first_M = torch.searchsorted(keys_n, keys_M)
    copies_M = (torch.searchsorted(keys_n, keys_M, right=True) - first_M).to(dtype)

    if negatives.shifts_n is None:
        return copies_M
    shift_M = negatives.shifts_n[pool][first_M.clamp(max=len(keys_n) - 1)]
    return torch.where(copies_M > 0, copies_M * shift_M.exp(), 0.0)
