"""The k best items of each user so far, while a search goes through all items.

The search offers each item whose score reaches the user's threshold, the k-th best score so far.
Offers are collected, and merged into the best items when there are many. An item that several heads
offer is kept once, with its best score.

Shapes: B users, k results, c offers, W entries in the longest list of kept and offered items.
"""

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.retrieval.keys import NOTHING, encode, row_of, score_of

# The lowest threshold is finite, so that an item with a score of -inf never reaches it.
_LOWEST = torch.finfo(torch.float32).min
_WAITING = 0.25  # the most offers that wait for a merge, as a share of the kept items


class BestItems:
    """The best items of a batch of users so far.

    Attributes:
        threshold_B: the score that an item must reach to be among the user's best items.
    """

    def __init__(
        self,
        users: int,
        k: int,
        excluded: Tensor,
        device: torch.device,
        *,
        offered_once: bool = False,
    ) -> None:
        """
        Args:
            users: the number of users.
            k: the number of items that are kept for each user.
            excluded: the items that must not be found for a user, as returned by `pairs`.
            device: the device of the offers.
            offered_once: whether each item is offered to a user at most once. Then duplicates need
                not be removed.
        """
        self.threshold_B = torch.full((users,), _LOWEST, device=device)
        self._keys_Bk = torch.full((users, k), NOTHING, dtype=torch.int64, device=device)
        self._path_Bk = torch.zeros((users, k), dtype=torch.int64, device=device)
        self._excluded = excluded
        self._offered_once = offered_once
        self._offers: list[tuple[Tensor, Tensor, Tensor]] = []
        self._waiting = 0

    def offer(self, user_c: Tensor, row_c: Tensor, score_c: Tensor, path_c: Tensor) -> None:
        """Offers items with finite scores.

        If an item is offered with equal scores of several paths, the smallest path must be first.
        """
        self._offers.append((user_c, encode(score_c, row_c), path_c))
        self._waiting += len(user_c)

        # A merge sorts all lists, so it is done only for many offers. Until then the thresholds are
        # lower than they could be: more items are offered, but the result is the same.
        if self._waiting > _WAITING * self._keys_Bk.numel():
            self._merge()

    def result(self) -> tuple[Tensor, Tensor]:
        """Returns the keys and paths of the best items, [B, k] each, best first.

        The keys of lists with fewer items are padded with `NOTHING`.
        """
        self._merge()
        return self._keys_Bk, self._path_Bk

    def _merge(self) -> None:
        """Merges the waiting offers into the kept items, and raises the thresholds."""
        if not self._offers:
            return

        user_c, key_c, path_c = (torch.cat(parts) for parts in zip(*self._offers, strict=True))
        self._offers = []
        self._waiting = 0
        user_c, key_c, path_c = self._without_excluded(user_c, key_c, path_c)

        keys_BW, paths_BW = with_offers(self._keys_Bk, self._path_Bk, user_c, key_c, path_c)
        if not self._offered_once:
            keys_BW, paths_BW = without_duplicates(keys_BW, paths_BW)
        self._keys_Bk, column = keys_BW.topk(self._keys_Bk.shape[1], dim=1)
        self._path_Bk = paths_BW.gather(1, column)
        # For a user with fewer than k items so far, the k-th score is -inf.
        self.threshold_B = score_of(self._keys_Bk[:, -1]).clamp(min=_LOWEST)

    def _without_excluded(
        self, user_c: Tensor, key_c: Tensor, path_c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Removes offers of excluded items."""
        if not len(self._excluded):
            return user_c, key_c, path_c

        # The binary search returns the position of a pair if it is excluded.
        pair_c = (user_c << 32) + row_of(key_c)
        index_c = torch.searchsorted(self._excluded, pair_c).clamp(max=len(self._excluded) - 1)
        allowed = torch.nonzero(self._excluded[index_c] != pair_c)[:, 0]
        return user_c[allowed], key_c[allowed], path_c[allowed]


def with_offers(
    keys_Bk: Tensor, path_Bk: Tensor, user_c: Tensor, key_c: Tensor, path_c: Tensor
) -> tuple[Tensor, Tensor]:
    """Appends each user's offers to lists of kept items.

    Returns:
        Keys and paths, [B, W] each: the kept items, then the offers in their order.
    """
    users, k = keys_Bk.shape
    # The offers of a single call may be sorted by user already.
    if bool((user_c[1:] < user_c[:-1]).any()):
        user_c, order = user_c.sort(stable=True)
        key_c = key_c[order]
        path_c = path_c[order]

    # Offer number n of a user, from 0, gets column k + n.
    counts_B = torch.bincount(user_c, minlength=users)
    first_c = (counts_B.cumsum(0) - counts_B)[user_c]
    column_c = torch.arange(len(user_c), device=user_c.device) - first_c + k
    longest = int(counts_B.max()) if len(user_c) else 0

    keys_BW = keys_Bk.new_full((users, k + longest), NOTHING)
    paths_BW = path_Bk.new_zeros((users, k + longest))
    keys_BW[:, :k] = keys_Bk
    paths_BW[:, :k] = path_Bk
    keys_BW[user_c, column_c] = key_c
    paths_BW[user_c, column_c] = path_c
    return keys_BW, paths_BW


def without_duplicates(keys_BW: Tensor, paths_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts lists with the best item first, and keeps only the best entry of each item.

    The keys of other entries become `NOTHING`.
    """
    # As the sort is stable, equal keys stay in their order: kept items first, then smaller paths.
    order = keys_BW.argsort(dim=1, descending=True, stable=True)
    keys_BW = keys_BW.gather(1, order)
    paths_BW = paths_BW.gather(1, order)

    # Sorted by row id, the entries of an item are neighbours, and its best entry is the first.
    row_BW, column_BW = row_of(keys_BW).sort(dim=1, stable=True)
    is_repeated_BW = torch.zeros_like(row_BW, dtype=torch.bool)
    is_repeated_BW[:, 1:] = (row_BW[:, 1:] == row_BW[:, :-1]) & (row_BW[:, 1:] >= 0)
    duplicate_BW = torch.zeros_like(is_repeated_BW).scatter_(1, column_BW, is_repeated_BW)
    return keys_BW.masked_fill(duplicate_BW, NOTHING), paths_BW


def pairs(user: np.ndarray, row: np.ndarray, device: torch.device) -> Tensor:
    """Encodes (user, row id) pairs as numbers, user * 2^32 + row id, and sorts them."""
    return torch.from_numpy(np.sort((user.astype(np.int64) << 32) + row)).to(device)
