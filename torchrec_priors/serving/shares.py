"""Top-k in which given groups have at least their shares.

Items that are in the same of these groups are searched together, cell by cell, so every item is
scored once; then the list is chosen from each cell's best (`choice.py`).

Shapes: B users, C candidates of the index, J groups, K paths, k items.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchrec_priors.errors import UserError
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search_types import Found
from torchrec_priors.serving.choice import Candidate, choose, fewest


class Shares:
    """Groups and how many of k items must be theirs.

    Every rank must create one and call it alike.

    Attributes:
        names: of the groups.
        need: items of each.
    """

    def __init__(
        self,
        share: dict[str, float],
        path_K: dict[str, Tensor],
        k: int,
        index: GroupIndex,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """
        Args:
            share: of each group, by name.
            path_K: bool, the heads whose items are the group's.
            index: what may be recommended.
            total: a tensor -> its sum over ranks.

        Raises:
            UserError: the shares are more than k items.
        """
        self.names = list(share)
        self.k = k
        # Rounded first, as 0.7 x 10 is 7.000000000000001, of which the ceiling would be 8.
        self.need = [math.ceil(round(part * k, 9)) for part in share.values()]

        # A cell is the set of groups that an item is in, as the bits of a number. Every rank
        # searches the cells that any rank has items of.
        mask_C = torch.zeros(len(index), dtype=torch.int64, device=index.item_C.device)
        for group, name in enumerate(self.names):
            mask_C |= index.reach(path_K[name]).long() << group
        counts = total(torch.bincount(mask_C, minlength=1 << len(self.names))).tolist()
        self._cells = {
            mask: index.restricted(mask_C == mask) for mask, count in enumerate(counts) if count
        }

        # A group without items must not make the shares impossible here: it counts as one with k.
        counts_by_cell = {1 << group: k for group in range(len(self.names))}
        counts_by_cell |= dict.fromkeys(self._cells, k)
        items = fewest(tuple(self.need), counts_by_cell)
        if items > k:
            shares = ", ".join(
                f"'{name}' {need}" for name, need in zip(self.names, self.need, strict=True)
            )
            raise UserError(
                f"at-least: {shares} take {items:.0f} items together, more than k = {k}: "
                "give smaller shares"
            )

    def find(self, search: Callable[[GroupIndex], Found]) -> tuple[Found, Tensor]:
        """The best items; and bool [B, J]: whether a user has fewer items of a group than needed.

        Args:
            search: top-k of the items of an index.
        """
        # Every rank searches the same cells in the same order, as each search is a collective.
        by_cell = {mask: search(index) for mask, index in self._cells.items()}
        candidates = {mask: _candidates(found) for mask, found in by_cell.items()}

        # At least one cell exists: some item is always left to be recommended.
        like = next(iter(by_cell.values()))
        device = like.row_Bk.device
        row_Bk = torch.full_like(like.row_Bk, -1)
        score_Bk = torch.full_like(like.score_Bk, -torch.inf)
        path_Bk = torch.zeros_like(like.path_Bk)
        short_BJ = torch.zeros(len(row_Bk), len(self.names), dtype=torch.bool)
        for user in range(len(row_Bk)):
            cells = {mask: users[user] for mask, users in candidates.items()}
            best, met = choose(cells, self.need, self.k)

            row_Bk[user, : len(best)] = torch.tensor([item.row for item in best], device=device)
            score_Bk[user, : len(best)] = torch.tensor([item.score for item in best], device=device)
            path_Bk[user, : len(best)] = torch.tensor([item.path for item in best], device=device)
            short_BJ[user] = torch.tensor(met) < torch.tensor(self.need)
        return Found(row_Bk, score_Bk, path_Bk), short_BJ


def _candidates(found: Found) -> list[list[Candidate]]:
    """What was found for each user, best first."""
    columns = (found.score_Bk.tolist(), found.row_Bk.tolist(), found.path_Bk.tolist())
    return [
        [Candidate(score, row, path) for score, row, path in zip(*parts, strict=True) if row >= 0]
        for parts in zip(*columns, strict=True)
    ]
