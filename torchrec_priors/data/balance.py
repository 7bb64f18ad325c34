"""Assigns the windows of a global batch to ranks, so that all ranks get about the same work."""

import heapq

import numpy as np


def attention_cost(length_B: np.ndarray, dim: int) -> np.ndarray:
    """Estimates the work of an HSTU layer on each context, in units of `dim` multiply-adds.

    For a context of n items and width d, the projections (d -> 4 d and d -> d) take 5 n d^2
    multiply-adds, and causal attention takes n^2 d. Together they take n (5 d + n) d.

    Args:
        length_B: the number of items in each context.
        dim: the width d.

    Returns:
        int64 [B].
    """
    return length_B * (5 * dim + length_B)


def deal(cost_B: np.ndarray, ranks: int) -> np.ndarray:
    """Assigns each window to a rank.

    The costliest windows are assigned first, each to the rank with the least work so far (Graham's
    LPT rule). So no rank gets more than the mean work plus the cost of one window. If costs are
    equal, the earlier window comes first; if ranks have equal work, the lower rank is chosen. So
    every rank computes the same assignment.

    Args:
        cost_B: the cost of each window.
        ranks: the number of ranks.

    Returns:
        int64 [B], the rank of each window.

    >>> deal(np.array([4, 7, 3, 4, 8]), 2).tolist()
    [1, 1, 1, 0, 0]
    """
    rank_B = np.zeros(len(cost_B), np.int64)
    if ranks == 1:
        return rank_B

    # A heap of (work, rank); its first entry is the rank with the least work.
    order = np.argsort(-cost_B, kind="stable")
    heap = [(0, rank) for rank in range(ranks)]
    chosen_ranks = []
    for cost in cost_B[order].tolist():
        work, rank = heap[0]
        chosen_ranks.append(rank)
        heapq.heapreplace(heap, (work + cost, rank))

    rank_B[order] = chosen_ranks
    return rank_B
