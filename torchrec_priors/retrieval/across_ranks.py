"""A search over the rows of all ranks: every rank answers everyone's users, and answers are merged.

    1. Queries and exclusions of all ranks' users are gathered on every rank.
    2. Every rank searches its own rows for the users of each rank in turn.
    3. The answers go back to the ranks of the users, which merge them.

Batches may differ in size, even be empty: what is sent is padded to the largest.

Shapes: B users of a rank, K paths, k results, W ranks, X anything.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.retrieval.search_types import Exclusions, Queries

Answer = Callable[[Queries, Exclusions | None], Sequence[Tensor]]


def answers_of_all_ranks(
    answer: Answer, queries: Queries, excluded: Exclusions | None, fills: Sequence[int]
) -> list[Tensor]:
    """What each rank answers for this rank's users: tensors [W, B, X]. Every rank must call it.

    Args:
        answer: a batch's tensors, [users of the batch, X] each, over this rank's rows.
        fills: for each of these tensors, what rows of no user are filled with on the way.
    """
    # All-to-all takes equal shapes only, hence the padding to the largest batch.
    everyones_queries = _gather_queries(queries)
    everyones_exclusions = _gather_exclusions(excluded, queries.bias_BK.device)
    largest = max(len(theirs) for theirs in everyones_queries)

    parts_W = []
    for theirs, exclusions in zip(everyones_queries, everyones_exclusions, strict=True):
        parts = answer(theirs, exclusions)
        missing = (0, 0, 0, largest - len(theirs))
        parts_W.append(
            [F.pad(part, missing, value=fill) for part, fill in zip(parts, fills, strict=True)]
        )

    # Row w of what arrives is rank w's answer for this rank's users; padding comes after them.
    received = [_exchange(torch.stack(parts)) for parts in zip(*parts_W, strict=True)]
    return [part_WBX[:, : len(queries)] for part_WBX in received]


def merge_best(keys_WBk: Tensor, paths_WBk: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best keys (`keys.py`) of all ranks' lists, and their paths: [B, k] each."""
    # Ranks hold different items, so their keys never tie: the order of ranks does not matter.
    keys = keys_WBk.transpose(0, 1).flatten(1)
    paths = paths_WBk.transpose(0, 1).flatten(1)
    best_Bk, column = keys.topk(k, dim=1)
    return best_Bk, paths.gather(1, column)


def _gather_queries(queries: Queries) -> list[Queries]:
    """Queries of every rank's users."""
    vectors_W = _gather_rows(queries.vector_BKd)
    biases_W = _gather_rows(queries.bias_BK)
    return [
        Queries(vector_BKd, bias_BK)
        for vector_BKd, bias_BK in zip(vectors_W, biases_W, strict=True)
    ]


def _gather_exclusions(
    excluded: Exclusions | None, device: torch.device
) -> list[Exclusions | None]:
    """Exclusions of every rank's users; all ranks have some, or none has."""
    if excluded is None:
        return [None] * dist.get_world_size()
    pairs = torch.from_numpy(np.stack([excluded.user, excluded.row], 1)).to(device)
    arrays = [pair.cpu().numpy() for pair in _gather_rows(pairs)]
    return [Exclusions(pair[:, 0], pair[:, 1]) for pair in arrays]


def _gather_rows(rows: Tensor) -> list[Tensor]:
    """Every rank's rows; their number may differ."""
    world = dist.get_world_size()
    # The numbers of rows go first; `all_gather` wants the rows themselves in equal shapes.
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))

    longest = int(max(sizes))
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]


def _exchange(sent_WBX: Tensor) -> Tensor:
    """Row w goes to rank w; row w of the answer came from rank w."""
    received = torch.empty_like(sent_WBX)
    dist.all_to_all_single(received, sent_WBX)
    return received
