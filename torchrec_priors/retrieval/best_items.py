"""The k best items of each user, kept while scores of all items go by.

Whoever scores offers what reaches the user's threshold, the k-th best score so far. Offers are put aside and merged
when they are many; an item that is offered by several heads counts once, with its best score.

Shapes: B users, k results, c offers, W entries of the longest list.
"""

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.retrieval.keys import NOTHING, encode, row_of, score_of

_LOWEST = torch.finfo(torch.float32).min
_ASIDE = 0.25  # offers that wait, as a share of what is kept


class BestItems:
    """Attributes:
    threshold_B: what an item's score must reach to count; -inf never does.
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
            offered_once: no item is offered to a user twice, so that nobody looks for it.
        """
        self.threshold_B = torch.full((users,), _LOWEST, device=device)
        self._keys_Bk = torch.full((users, k), NOTHING, dtype=torch.int64, device=device)
        self._path_Bk = torch.zeros((users, k), dtype=torch.int64, device=device)
        self._excluded = excluded
        self._offered_once = offered_once
        self._offers: list[tuple[Tensor, Tensor, Tensor]] = []
        self._waiting = 0

    def offer(self, user_c: Tensor, row_c: Tensor, score_c: Tensor, path_c: Tensor) -> None:
        """Scores are finite; of equal scores of one item, that of the smaller path comes first."""
        self._offers.append((user_c, encode(score_c, row_c), path_c))
        self._waiting += len(user_c)
        if self._waiting > _ASIDE * self._keys_Bk.numel():
            self._merge()

    def result(self) -> tuple[Tensor, Tensor]:
        """Keys and paths, [B, k], best first, padded with `NOTHING`."""
        self._merge()
        return self._keys_Bk, self._path_Bk

    def _merge(self) -> None:
        if not self._offers:
            return
        user_c, key_c, path_c = (torch.cat(parts) for parts in zip(*self._offers, strict=True))
        self._offers = []
        self._waiting = 0
        user_c, key_c, path_c = self._allowed(user_c, key_c, path_c)
        keys_BW, paths_BW = self._lists(user_c, key_c, path_c)
        if not self._offered_once:
            keys_BW, paths_BW = _once(keys_BW, paths_BW)
        self._keys_Bk, kept = keys_BW.topk(self._keys_Bk.shape[1], dim=1)
        self._path_Bk = paths_BW.gather(1, kept)
        self.threshold_B = score_of(self._keys_Bk[:, -1]).clamp(min=_LOWEST)

    def _allowed(
        self, user_c: Tensor, key_c: Tensor, path_c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not len(self._excluded):
            return user_c, key_c, path_c
        pair_c = (user_c << 32) + row_of(key_c)
        place_c = torch.searchsorted(self._excluded, pair_c).clamp(max=len(self._excluded) - 1)
        allowed = torch.nonzero(self._excluded[place_c] != pair_c)[:, 0]
        return user_c[allowed], key_c[allowed], path_c[allowed]

    def _lists(self, user_c: Tensor, key_c: Tensor, path_c: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept, and after it each user's offers in their order: [B, W]."""
        users, k = self._keys_Bk.shape
        if bool((user_c[1:] < user_c[:-1]).any()):
            user_c, order = user_c.sort(stable=True)
            key_c = key_c[order]
            path_c = path_c[order]
        counts = torch.bincount(user_c, minlength=users)
        place_c = (
            torch.arange(len(user_c), device=user_c.device)
            - (counts.cumsum(0) - counts)[user_c]
            + k
        )
        width = k + (int(counts.max()) if len(user_c) else 0)
        keys_BW = self._keys_Bk.new_full((users, width), NOTHING)
        paths_BW = self._path_Bk.new_zeros((users, width))
        keys_BW[:, :k], paths_BW[:, :k] = self._keys_Bk, self._path_Bk
        keys_BW[user_c, place_c], paths_BW[user_c, place_c] = key_c, path_c
        return keys_BW, paths_BW


def _once(keys_BW: Tensor, paths_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Best first, and nothing where an item comes again."""
    order = keys_BW.argsort(
        dim=1, descending=True, stable=True
    )  # kept and earlier ones first: smaller paths
    keys_BW = keys_BW.gather(1, order)
    paths_BW = paths_BW.gather(1, order)
    by_row, place = row_of(keys_BW).sort(dim=1, stable=True)
    again = torch.zeros_like(by_row, dtype=torch.bool)
    again[:, 1:] = (by_row[:, 1:] == by_row[:, :-1]) & (by_row[:, 1:] >= 0)
    return keys_BW.masked_fill(torch.zeros_like(again).scatter_(1, place, again), NOTHING), paths_BW


def pairs(user: np.ndarray, row: np.ndarray, device: torch.device) -> Tensor:
    """(user, row id) pairs as `BestItems` takes them."""
    return torch.from_numpy(np.sort((user.astype(np.int64) << 32) + row)).to(device)
