"""The k best items of each user so far, while a search goes through all items.

The search offers each item whose score reaches the user's threshold, the k-th best score so far.
Offers are collected, and merged into the best items when there are many. An item that several heads
offer is kept once, with its best score. If several heads give it this score, the smallest path is
kept. Several threads may offer items, in any order: the result depends on what they offer only.

Shapes: B users, k results, c offers, W entries in the longest list of kept and offered items.
"""

from threading import Lock

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.retrieval.keys import NOTHING, encode, row_of, score_of

# The lowest threshold is finite, so that an item with a score of -inf never reaches it.
_LOWEST = torch.finfo(torch.float32).min
_WAITING = 0.25  # offers that are worth a merge, as a share of the kept items
_MOST_WAITING = 4.0  # with more offers than this, a thread that offers waits for the merge


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
        self._lock = Lock()  # of the offers
        self._merging = Lock()  # of the kept items

    def offer(self, user_c: Tensor, row_c: Tensor, score_c: Tensor, path_c: Tensor) -> None:
        """Offers items with finite scores. Threads may call it at the same time."""
        offer = (user_c, encode(score_c, row_c), path_c)
        with self._lock:
            self._offers.append(offer)
            self._waiting += len(user_c)
            waiting = self._waiting / self._keys_Bk.numel()

        # A merge sorts all lists, so it is done only for many offers. Until then the thresholds are
        # lower than they could be: more items are offered, but the result is the same. For the same
        # reason other threads go on while one of them merges.
        if waiting > _WAITING and self._merging.acquire(blocking=waiting > _MOST_WAITING):
            try:
                self._merge()
            finally:
                self._merging.release()

    def result(self) -> tuple[Tensor, Tensor]:
        """Returns the keys and paths of the best items, [B, k] each, best first.

        The keys of lists with fewer items are padded with `NOTHING`.
        """
        self._merge()
        return self._keys_Bk, self._path_Bk

    def _merge(self) -> None:
        """Merges the waiting offers into the kept items, and raises the thresholds."""
        with self._lock:
            offers = self._offers
            self._offers = []
            self._waiting = 0
        if not offers:
            return

        user_c, key_c, path_c = (torch.cat(parts) for parts in zip(*offers, strict=True))
        user_c, key_c, path_c = self._without_excluded(user_c, key_c, path_c)

        keys_BW, paths_BW = with_offers(self._keys_Bk, self._path_Bk, user_c, key_c, path_c)
        if not self._offered_once:
            keys_BW, paths_BW = _smallest_path_first(keys_BW, paths_BW)
            keys_BW = _first_of_each_item(keys_BW)
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

    Of an item's entries with equal scores, the first one is kept. The keys of other entries become
    `NOTHING`.
    """
    keys_BW, paths_BW = _best_first(keys_BW, paths_BW)
    return _first_of_each_item(keys_BW), paths_BW


def _best_first(keys_BW: Tensor, paths_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts lists with the best item first. Equal keys stay in their order."""
    order = keys_BW.argsort(dim=1, descending=True, stable=True)
    return keys_BW.gather(1, order), paths_BW.gather(1, order)


def _smallest_path_first(keys_BW: Tensor, paths_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts lists with the best item first, and equal keys by path."""
    keys_BW, paths_BW = _best_first(keys_BW, paths_BW)

    # Most offers come in the order of their paths, so a second sort is seldom needed.
    is_equal = (keys_BW[:, 1:] == keys_BW[:, :-1]) & (keys_BW[:, 1:] != NOTHING)
    if not bool((is_equal & (paths_BW[:, 1:] < paths_BW[:, :-1])).any()):
        return keys_BW, paths_BW
    paths_BW, order = paths_BW.sort(dim=1, stable=True)
    return _best_first(keys_BW.gather(1, order), paths_BW)


def _first_of_each_item(keys_BW: Tensor) -> Tensor:
    """Returns sorted keys in which all entries of an item but its first one are `NOTHING`."""
    # Sorted by row id, the entries of an item are neighbours, and its best entry is the first.
    row_BW, column_BW = row_of(keys_BW).sort(dim=1, stable=True)
    is_repeated_BW = torch.zeros_like(row_BW, dtype=torch.bool)
    is_repeated_BW[:, 1:] = (row_BW[:, 1:] == row_BW[:, :-1]) & (row_BW[:, 1:] >= 0)
    duplicate_BW = torch.zeros_like(is_repeated_BW).scatter_(1, column_BW, is_repeated_BW)
    return keys_BW.masked_fill(duplicate_BW, NOTHING)


def pairs(user: np.ndarray, row: np.ndarray, device: torch.device) -> Tensor:
    """Encodes (user, row id) pairs as numbers, user * 2^32 + row id, and sorts them."""
    return torch.from_numpy(np.sort((user.astype(np.int64) << 32) + row)).to(device)
