"""Deals the windows of a global batch to ranks, so that each gets about the same work."""

import heapq

import numpy as np


def attention_cost(length_B: np.ndarray, dim: int) -> np.ndarray:
    """Work of an HSTU layer on contexts of n items, int64, in units of d multiply-adds.

    Projections take 5 n d^2 multiply-adds (d -> 4 d and d -> d), causal attention n^2 d. Together
    they take n (5 d + n) d.
    """
    return length_B * (5 * dim + length_B)


def deal(cost_B: np.ndarray, ranks: int) -> np.ndarray:
    """The rank of each window, int64 [B].

    The costliest windows are dealt first, each to the rank that has least (Graham's LPT rule). No
    rank has more than the mean and one window's cost. Ties go to the earlier window and the lower
    rank, so every rank computes the same.

    >>> deal(np.array([4, 7, 3, 4, 8]), 2).tolist()
    [1, 1, 1, 0, 0]
    """
    rank_B = np.zeros(len(cost_B), np.int64)
    if ranks == 1:
        return rank_B

    # A heap of (work, rank): its first entry is the rank that has least.
    order = np.argsort(-cost_B, kind="stable")
    work = [(0, rank) for rank in range(ranks)]
    chosen = []
    for cost in cost_B[order].tolist():
        done, rank = work[0]
        chosen.append(rank)
        heapq.heapreplace(work, (done + cost, rank))

    rank_B[order] = chosen
    return rank_B
