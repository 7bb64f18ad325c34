"""Lists diversified after the search by greedy relevance and entropy: common practice (paper 1).

Of a user's candidates, the best `CANDIDATES` found, one after another is picked: the one with the
largest

    (1 - lambda) r_i + lambda (H(S + i) - H(S))
    r_i  = (s_i - min s) / (max s - min s), over the user's candidates; 0 if all scores are the same
    H(S) = -sum_j (n_j / |S|) log2(n_j / |S|), n_j of the |S| picked items being in category j

H is what `entropy@|S|` measures. Ties go to the item that was found first. All candidates are
picked, so every cut of a list follows the same rule; items beyond them stay in their places.

Shapes: B users, C candidates, J categories, L most categories of a candidate, X = C x L.
"""

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.labels import compress
from torchrec_priors.retrieval.search_types import Found

CANDIDATES = 200
# Gains are rounded to this part of 1, so equal ones are equal however they were summed.
_GRID = 2.0**40


def diversify_reference(
    scores: list[float], categories: list[list[int]], weight: float
) -> list[int]:
    """The definition: the order of one user's candidates, best found first."""
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
    counts = np.bincount([j for i in chosen for j in categories[i]], minlength=1)
    share = counts[counts > 0] / max(len(chosen), 1)
    return float(-(share * np.log2(share)).sum())


class Diversifier:
    """Reorders what was found for users, each user separately: the batch and rank do not matter."""

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
            items: size of the catalogue.
        """
        starts, labels = compress(item, category, items)
        self.weight = weight
        self.starts = torch.from_numpy(starts).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.categories = int(labels.max(initial=-1)) + 1

        # Row m holds the terms of H for |S| = m + 1: -(n / |S|) log2(n / |S|) for every n.
        n = torch.arange(CANDIDATES + 1, dtype=torch.float64)
        share_mn = n / n[1:, None]
        self._terms_mn = -torch.special.xlogy(share_mn, share_mn).div(np.log(2)).to(device)

    @classmethod
    def of(cls, data: PreparedData, weight: float, device: torch.device) -> "Diversifier":
        """By the category prior of a data set."""
        pairs = data.prior_pairs(data.manifest.category_prior, "item")
        return cls(weight, *pairs, data.items, device)

    def rerank(self, found: Found) -> Found:
        """The same items, in the order in which they are picked."""
        order_BC = self._order(found.row_Bk[:, :CANDIDATES], found.score_Bk[:, :CANDIDATES])
        parts = (found.row_Bk, found.score_Bk, found.path_Bk)
        return Found(*(torch.cat([x.gather(1, order_BC), x[:, CANDIDATES:]], 1) for x in parts))

    def _order(self, row_BC: Tensor, score_BC: Tensor) -> Tensor:
        """Indices of the candidates, in the order in which they are picked."""
        users, candidates = row_BC.shape
        # The padding of short lists is picked last.
        exists_BC = row_BC >= 0
        relevance_BC = (1 - self.weight) * _relevance(score_BC, exists_BC)
        worth_BC = torch.where(exists_BC, relevance_BC, -1e9)

        label_BCL = self._labels(row_BC)
        label_BX = label_BCL.flatten(1)
        n_BJ = label_BX.new_zeros(users, self.categories + 1)
        order_BC = torch.empty_like(row_BC)
        for rank in range(candidates):
            # What one more item of each category adds to H; the last column is of no category.
            terms_n = self._terms_mn[rank]
            more_BJ = self.weight * (terms_n[n_BJ + 1] - terms_n[n_BJ])
            more_BJ[:, -1] = 0.0
            more_BCL = more_BJ.gather(1, label_BX).view_as(label_BCL)
            # Added one after another, so the sum does not depend on L.
            gain_BC = sum(more_BCL.unbind(2), start=torch.zeros_like(worth_BC))

            best_B1 = ((worth_BC + gain_BC) * _GRID).round_().argmax(1, keepdim=True)
            order_BC[:, rank] = best_B1[:, 0]
            worth_BC.scatter_(1, best_B1, -torch.inf)

            picked_BL = label_BCL.take_along_dim(best_B1[..., None], 1)[:, 0]
            n_BJ.scatter_add_(1, picked_BL, torch.ones_like(picked_BL))
            n_BJ[:, -1] = 0
        return order_BC

    def _labels(self, row_BC: Tensor) -> Tensor:
        """[B, C, L] categories; `self.categories` if an item has fewer."""
        row_BC = row_BC.clamp(min=0)
        first_BC = self.starts[row_BC]
        count_BC = self.starts[row_BC + 1] - self.starts[row_BC]
        most = int(count_BC.max()) if count_BC.numel() else 0

        offset_L = torch.arange(most, device=row_BC.device)
        has_label_BCL = offset_L < count_BC[..., None]
        index_BCL = torch.where(has_label_BCL, first_BC[..., None] + offset_L, 0)
        return torch.where(has_label_BCL, self.labels[index_BCL], self.categories)


def _relevance(score_BC: Tensor, exists_BC: Tensor) -> Tensor:
    score_BC = score_BC.double()
    low_B1 = torch.where(exists_BC, score_BC, torch.inf).amin(1, keepdim=True)
    high_B1 = torch.where(exists_BC, score_BC, -torch.inf).amax(1, keepdim=True)
    return torch.where(high_B1 > low_B1, (score_BC - low_B1) / (high_B1 - low_B1), 0.0)
