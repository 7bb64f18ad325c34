"""Diversifies lists after the search, which is common practice (section 1 of the paper).

The best `CANDIDATES` items that were found for a user are the user's candidates. They are picked
one after another. If S is the set of items picked so far, the next is the i with the largest

    (1 - lambda) r_i + lambda (H(S + i) - H(S))

    r_i    relevance: (s_i - min s) / (max s - min s), over the scores s of the user's candidates; 0
           if all scores are equal
    H(S)   entropy: -sum over j of (n_j / |S|) log2(n_j / |S|), where n_j of the |S| picked items
           are in category j

H is the entropy that the metric `entropy@|S|` measures. If two candidates are equally good, the one
that was found first is picked. All candidates are picked in the end, so the first items of a list
do not depend on its length. Items after the candidates keep their ranks.

Shapes: B users, C candidates, J categories, L the largest number of categories of a candidate,
X = C x L.
"""

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.labels import compress
from torchrec_priors.retrieval.search_types import Found

CANDIDATES = 200
# Values are rounded to multiples of 1 / _GRID before they are compared. So equal values stay equal,
# whatever the order of their summands.
_GRID = 2.0**40


def diversify_reference(
    scores: list[float], categories: list[list[int]], weight: float
) -> list[int]:
    """Computes the order for one user directly from the definition above, as a test reference.

    Args:
        scores: the scores of the user's candidates, in the order in which they were found.
        categories: the categories of each candidate.
        weight: lambda.

    Returns:
        The indices of the candidates, in the order in which they are picked.
    """
    low = min(scores, default=0.0)
    high = max(scores, default=0.0)
    chosen: list[int] = []
    while len(chosen) < len(scores):
        before = _entropy(chosen, categories)
        best = -1
        most = -np.inf
        for i in range(len(scores)):
            if i in chosen:
                continue
            relevance = (scores[i] - low) / (high - low) if high > low else 0.0
            gain = _entropy([*chosen, i], categories) - before
            worth = (1 - weight) * relevance + weight * gain
            if worth > most + 1e-10:
                best = i
                most = worth
        chosen.append(best)
    return chosen


def _entropy(chosen: list[int], categories: list[list[int]]) -> float:
    """Returns H of the chosen items."""
    counts = np.bincount([j for i in chosen for j in categories[i]], minlength=1)
    share = counts[counts > 0] / max(len(chosen), 1)
    return float(-(share * np.log2(share)).sum())


class Diversifier:
    """Reorders the lists of users, each user separately, so batches and ranks do not matter."""

    def __init__(
        self,
        weight: float,
        item: np.ndarray,
        category: np.ndarray,
        items: int,
        device: torch.device,
    ) -> None:
        """
        Args:
            weight: lambda, above 0 and at most 1.
            item, category: pairs of a row id and a category, in any order.
            items: the number of items in the catalogue.
            device: the device of the lists.
        """
        starts, labels = compress(item, category, items)
        self.weight = weight
        self.starts = torch.from_numpy(starts).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.categories = int(labels.max(initial=-1)) + 1

        # Row m has the summands of H for |S| = m + 1: -(n / |S|) log2(n / |S|) for every n.
        n = torch.arange(CANDIDATES + 1, dtype=torch.float64)
        share_mn = n / n[1:, None]
        self._terms_mn = -torch.special.xlogy(share_mn, share_mn).div(np.log(2)).to(device)

    @classmethod
    def of(cls, data: PreparedData, weight: float, device: torch.device) -> "Diversifier":
        """Makes a diversifier for the category prior of a data set."""
        pairs = data.prior_pairs(data.manifest.category_prior, "item")
        return cls(weight, *pairs, data.items, device)

    def searched(self, k: int) -> int:
        """Returns how many items must be found to reorder lists of k: never fewer than candidates.

        So a shorter list is the beginning of a longer one.
        """
        return max(k, CANDIDATES)

    def rerank(self, found: Found) -> Found:
        """Returns the same items, in the order in which they are picked."""
        order_BC = self._order(found.row_Bk[:, :CANDIDATES], found.score_Bk[:, :CANDIDATES])
        parts = (found.row_Bk, found.score_Bk, found.path_Bk)
        return Found(*(torch.cat([x.gather(1, order_BC), x[:, CANDIDATES:]], 1) for x in parts))

    def _order(self, row_BC: Tensor, score_BC: Tensor) -> Tensor:
        """Returns the indices of the candidates, in the order in which they are picked: [B, C]."""
        users, candidates = row_BC.shape
        # Short lists are padded; the padding is picked last.
        exists_BC = row_BC >= 0
        relevance_BC = (1 - self.weight) * _relevance(score_BC, exists_BC)
        worth_BC = torch.where(exists_BC, relevance_BC, -1e9)

        label_BCL = self._labels(row_BC)
        label_BX = label_BCL.flatten(1)
        n_BJ = label_BX.new_zeros(users, self.categories + 1)
        order_BC = torch.empty_like(row_BC)
        for rank in range(candidates):
            # `more_BJ` is the gain of H from one more item in each category. The last column stands
            # for items with fewer than L categories, and adds nothing.
            terms_n = self._terms_mn[rank]
            more_BJ = self.weight * (terms_n[n_BJ + 1] - terms_n[n_BJ])
            more_BJ[:, -1] = 0.0
            more_BCL = more_BJ.gather(1, label_BX).view_as(label_BCL)
            # Categories are added one by one, so the sum does not depend on L, i.e. on the batch.
            gain_BC = sum(more_BCL.unbind(2), start=torch.zeros_like(worth_BC))

            best_B1 = ((worth_BC + gain_BC) * _GRID).round_().argmax(1, keepdim=True)
            order_BC[:, rank] = best_B1[:, 0]
            worth_BC.scatter_(1, best_B1, -torch.inf)

            picked_BL = label_BCL.take_along_dim(best_B1[..., None], 1)[:, 0]
            n_BJ.scatter_add_(1, picked_BL, torch.ones_like(picked_BL))
            n_BJ[:, -1] = 0
        return order_BC

    def _labels(self, row_BC: Tensor) -> Tensor:
        """Returns the categories of each candidate, [B, C, L].

        Candidates with fewer than L categories are padded with `self.categories`.
        """
        row_BC = row_BC.clamp(min=0)
        first_BC = self.starts[row_BC]
        count_BC = self.starts[row_BC + 1] - self.starts[row_BC]
        most = int(count_BC.max()) if count_BC.numel() else 0

        offset_L = torch.arange(most, device=row_BC.device)
        has_label_BCL = offset_L < count_BC[..., None]
        index_BCL = torch.where(has_label_BCL, first_BC[..., None] + offset_L, 0)
        return torch.where(has_label_BCL, self.labels[index_BCL], self.categories)


def _relevance(score_BC: Tensor, exists_BC: Tensor) -> Tensor:
    """Returns r of each candidate, [B, C]."""
    score_BC = score_BC.double()
    low_B1 = torch.where(exists_BC, score_BC, torch.inf).amin(1, keepdim=True)
    high_B1 = torch.where(exists_BC, score_BC, -torch.inf).amax(1, keepdim=True)
    return torch.where(high_B1 > low_B1, (score_BC - low_B1) / (high_B1 - low_B1), 0.0)
