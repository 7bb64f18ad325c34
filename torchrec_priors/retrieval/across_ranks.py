"""Searches the rows of all ranks: each rank answers for its own rows, and the answers are merged.

    1. Queries and exclusions of all ranks' users are gathered on every rank.
    2. Every rank searches its own rows for the users of each rank in turn.
    3. The answers are sent back to the ranks of the users, which merge them.

The batches of ranks may differ in size, and may be empty: answers are padded to the largest batch.

Shapes: B users of a rank, K paths, k results, W ranks, X any number of columns.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.retrieval.search_types import Exclusions, Queries, Repeats

Answer = Callable[[Queries, Exclusions | None], Sequence[Tensor]]


def answers_of_all_ranks(
    answer: Answer, queries: Queries, excluded: Exclusions | None, fills: Sequence[int]
) -> list[Tensor]:
    """Collects the answers of all ranks for this rank's users. Every rank must call it.

    Args:
        answer: searches this rank's rows for a batch of users. It returns one or more tensors
            [users, X].
        queries: the queries of this rank's users.
        excluded: the items that must not be found for this rank's users, or None.
        fills: for each tensor that `answer` returns, the value that pads it.

    Returns:
        For each tensor that `answer` returns, those of all ranks: [W, B, X].
    """
    queries_W = _gather_queries(queries)
    excluded_W = _gather_exclusions(excluded, queries.bias_BK.device)

    # All-to-all requires equal shapes, so all batches are padded to the largest.
    largest = max(len(queries_of_rank) for queries_of_rank in queries_W)
    answers_W = []
    for queries_of_rank, excluded_of_rank in zip(queries_W, excluded_W, strict=True):
        tensors = answer(queries_of_rank, excluded_of_rank)
        padding = (0, 0, 0, largest - len(queries_of_rank))
        answers_W.append(
            [
                F.pad(tensor, padding, value=fill)
                for tensor, fill in zip(tensors, fills, strict=True)
            ]
        )

    # Row w of a received tensor is rank w's answer for this rank's users, with padding at the end.
    received = [_exchange(torch.stack(tensors)) for tensors in zip(*answers_W, strict=True)]
    return [answer_WBX[:, : len(queries)] for answer_WBX in received]


def merge_best(keys_WBk: Tensor, paths_WBk: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the k best keys (`keys.py`) in all ranks' lists, and their paths: [B, k] each."""
    # Ranks hold different items, so no two keys are equal, and the order of ranks does not matter.
    keys = keys_WBk.transpose(0, 1).flatten(1)
    paths = paths_WBk.transpose(0, 1).flatten(1)
    best_Bk, column = keys.topk(k, dim=1)
    return best_Bk, paths.gather(1, column)


def _gather_queries(queries: Queries) -> list[Queries]:
    """Returns the queries of every rank's users, by rank."""
    vectors_W = _gather_rows(queries.vector_BKd)
    biases_W = _gather_rows(queries.bias_BK)
    repeats_W: list[Repeats | None] = [None] * len(vectors_W)
    # Either all ranks have a repeat head, or no rank has one.
    if queries.repeats is not None:
        repeats = queries.repeats
        columns = zip(
            _gather_rows(repeats.user_R),
            _gather_rows(repeats.row_R),
            _gather_rows(repeats.score_R),
            strict=True,
        )
        repeats_W = [Repeats(*column) for column in columns]
    return [Queries(*parts) for parts in zip(vectors_W, biases_W, repeats_W, strict=True)]


def _gather_exclusions(
    excluded: Exclusions | None, device: torch.device
) -> list[Exclusions | None]:
    """Returns the exclusions of every rank's users, by rank.

    Either all ranks have exclusions, or no rank has any.
    """
    if excluded is None:
        return [None] * dist.get_world_size()
    pairs = torch.from_numpy(np.stack([excluded.user, excluded.row], 1)).to(device)
    arrays = [pair.cpu().numpy() for pair in _gather_rows(pairs)]
    return [Exclusions(pair[:, 0], pair[:, 1]) for pair in arrays]


def _gather_rows(rows: Tensor) -> list[Tensor]:
    """Returns the rows of every rank. Ranks may have different numbers of rows."""
    world = dist.get_world_size()
    # The numbers of rows are gathered first, as `all_gather` requires tensors of equal shapes.
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))

    longest = int(max(sizes))
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]


def _exchange(sent_WBX: Tensor) -> Tensor:
    """Sends row w to rank w. In the returned tensor, row w comes from rank w."""
    received = torch.empty_like(sent_WBX)
    dist.all_to_all_single(received, sent_WBX)
    return received
