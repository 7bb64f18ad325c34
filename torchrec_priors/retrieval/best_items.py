"""The k best items of each user, kept while the scores of all items go by.

A search offers the items that reach the user's threshold, the k-th best score so far. Offers wait
and are merged when there are many. An item that several heads offer counts once, with its best
score.

Shapes: B users, k results, c offers, W entries of the longest list.
"""

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.retrieval.keys import NOTHING, encode, row_of, score_of

# The lowest threshold is finite, so an item with a score of -inf never reaches it.
_LOWEST = torch.finfo(torch.float32).min
_WAITING = 0.25  # offers that wait at most, as a share of the kept entries


class BestItems:
    """The best items of some users so far.

    Attributes:
        threshold_B: the score that an item must reach to count; -inf never does.
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
            excluded: items that must not be found, as ascending user * 2^32 + row id.
            offered_once: no item is offered to a user twice, so duplicates need not be removed.
        """
        self.threshold_B = torch.full((users,), _LOWEST, device=device)
        self._keys_Bk = torch.full((users, k), NOTHING, dtype=torch.int64, device=device)
        self._path_Bk = torch.zeros((users, k), dtype=torch.int64, device=device)
        self._excluded = excluded
        self._offered_once = offered_once
        self._offers: list[tuple[Tensor, Tensor, Tensor]] = []
        self._waiting = 0

    def offer(self, user_c: Tensor, row_c: Tensor, score_c: Tensor, path_c: Tensor) -> None:
        """Offers items. Scores are finite; of equal scores of one item, that of the smaller path
        must be offered first."""
        self._offers.append((user_c, encode(score_c, row_c), path_c))
        self._waiting += len(user_c)
        # A merge sorts all lists, which pays only for many offers. Waiting costs nothing but a
        # threshold that is too low for a while: more is offered, the result is the same.
        if self._waiting > _WAITING * self._keys_Bk.numel():
            self._merge()

    def result(self) -> tuple[Tensor, Tensor]:
        """Keys and paths, [B, k], best first, padded with `NOTHING`."""
        self._merge()
        return self._keys_Bk, self._path_Bk

    def _merge(self) -> None:
        """Puts the waiting offers among the kept items, and raises the thresholds."""
        if not self._offers:
            return

        user_c, key_c, path_c = (torch.cat(parts) for parts in zip(*self._offers, strict=True))
        self._offers = []
        self._waiting = 0
        user_c, key_c, path_c = self._without_excluded(user_c, key_c, path_c)

        keys_BW, paths_BW = self._lists(user_c, key_c, path_c)
        if not self._offered_once:
            keys_BW, paths_BW = _without_duplicates(keys_BW, paths_BW)
        self._keys_Bk, column = keys_BW.topk(self._keys_Bk.shape[1], dim=1)
        self._path_Bk = paths_BW.gather(1, column)
        # A user who has fewer than k items so far keeps the lowest threshold.
        self.threshold_B = score_of(self._keys_Bk[:, -1]).clamp(min=_LOWEST)

    def _without_excluded(
        self, user_c: Tensor, key_c: Tensor, path_c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not len(self._excluded):
            return user_c, key_c, path_c

        # The binary search finds where a pair would be: it is excluded if it is there.
        pair_c = (user_c << 32) + row_of(key_c)
        index_c = torch.searchsorted(self._excluded, pair_c).clamp(max=len(self._excluded) - 1)
        allowed = torch.nonzero(self._excluded[index_c] != pair_c)[:, 0]
        return user_c[allowed], key_c[allowed], path_c[allowed]

    def _lists(self, user_c: Tensor, key_c: Tensor, path_c: Tensor) -> tuple[Tensor, Tensor]:
        """Each user's kept items, and after them its offers in their order: [B, W]."""
        users, k = self._keys_Bk.shape
        # The offers of one call may be sorted by user already; those of several rarely are.
        if bool((user_c[1:] < user_c[:-1]).any()):
            user_c, order = user_c.sort(stable=True)
            key_c = key_c[order]
            path_c = path_c[order]

        # The column of an offer: how many offers of the same user come before it, after the k kept.
        counts_B = torch.bincount(user_c, minlength=users)
        first_c = (counts_B.cumsum(0) - counts_B)[user_c]
        column_c = torch.arange(len(user_c), device=user_c.device) - first_c + k
        longest = int(counts_B.max()) if len(user_c) else 0

        keys_BW = self._keys_Bk.new_full((users, k + longest), NOTHING)
        paths_BW = self._path_Bk.new_zeros((users, k + longest))
        keys_BW[:, :k] = self._keys_Bk
        paths_BW[:, :k] = self._path_Bk
        keys_BW[user_c, column_c] = key_c
        paths_BW[user_c, column_c] = path_c
        return keys_BW, paths_BW


def _without_duplicates(keys_BW: Tensor, paths_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Best first; all but the best entry of an item become `NOTHING`."""
    # The sort is stable: of equal keys, kept and earlier ones come first, with smaller paths.
    order = keys_BW.argsort(dim=1, descending=True, stable=True)
    keys_BW = keys_BW.gather(1, order)
    paths_BW = paths_BW.gather(1, order)

    # Sorted by row, the entries of an item are next to one another, the best of them first.
    row_BW, column_BW = row_of(keys_BW).sort(dim=1, stable=True)
    again_BW = torch.zeros_like(row_BW, dtype=torch.bool)
    again_BW[:, 1:] = (row_BW[:, 1:] == row_BW[:, :-1]) & (row_BW[:, 1:] >= 0)
    duplicate_BW = torch.zeros_like(again_BW).scatter_(1, column_BW, again_BW)
    return keys_BW.masked_fill(duplicate_BW, NOTHING), paths_BW


def pairs(user: np.ndarray, row: np.ndarray, device: torch.device) -> Tensor:
    """(user, row id) pairs as `BestItems` takes them."""
    return torch.from_numpy(np.sort((user.astype(np.int64) << 32) + row)).to(device)
