"""Splits a model's likelihood of the next items into two decisions: which group, and which item.

The scores of a model give every item a probability, P(i | user): the softmax of the scores of all
items that may be recommended. If each item has one group,

    -log P(i | user) = -log P(group of i | user) - log P(i | its group, user)

holds for every model, with or without heads, where P(group | user) is the sum over the items of the
group. So models can be compared decision by decision: what heads for groups gain inside groups, and
what they lose between them.

Shapes: B users, M targets, k items found.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.retrieval.search_types import Found


@dataclass
class InsideGroups:
    """Sums over targets.

    Attributes:
        group_I: the group of each item.
        groups: the number of groups.
        users: the number of users that were added.
        targets: the number of targets that were counted.
        left_out: the number of targets that the model may not recommend, such as seen items.
        bits: the sum of -log2 P(i | user).
        group_bits: the sum of -log2 P(group of i | user); the rest of `bits` is inside groups.
        group_hits: the number of targets whose group is the most probable one.
        hits: the number of targets that are among the ten best items.
        inside_hits: the number of targets that are among the ten best items of their group.
    """

    group_I: np.ndarray
    groups: int
    users: int = 0
    targets: int = 0
    left_out: int = 0
    bits: float = 0.0
    group_bits: float = 0.0
    group_hits: int = 0
    hits: int = 0
    inside_hits: int = 0

    @classmethod
    def of(cls, category: Categories) -> "InsideGroups":
        """Makes empty sums for a prior.

        Raises:
            UserError: the prior does not give every item exactly one group.
        """
        if category.entity != "item" or not (np.diff(category.starts) == 1).all():
            raise UserError(
                f"--prior: '{category.name}' does not give every item exactly one group: name a "
                "prior that does"
            )
        return cls(category.labels, len(category.groups))

    def update(self, users: Histories, found: Found) -> None:
        """Adds the targets of a batch of users.

        Args:
            users: the users with their targets.
            found: all items that may be recommended to each user, best first.
        """
        self.users += len(users)
        row_Bk = found.row_Bk.numpy()
        score_Bk = found.score_Bk.numpy().astype(np.float64)
        bounds = np.cumsum(users.target_lengths)
        for user, targets_M in enumerate(np.split(users.targets, bounds[:-1])):
            row_k = row_Bk[user][row_Bk[user] >= 0]
            self._add(row_k, score_Bk[user][: len(row_k)], targets_M)

    def _add(self, row_k: np.ndarray, score_k: np.ndarray, targets_M: np.ndarray) -> None:
        place_I = np.full(len(self.group_I), -1)
        place_I[row_k] = np.arange(len(row_k))
        place_M = place_I[targets_M]
        self.left_out += int((place_M < 0).sum())
        place_M = place_M[place_M >= 0]
        if not len(place_M):
            return

        # The items are sorted, so an item's rank in its group is the number of those before it.
        group_k = self.group_I[row_k]
        log_p_k = score_k - logsumexp(score_k)
        mass_G = np.bincount(group_k, np.exp(log_p_k), minlength=self.groups)
        order = np.argsort(group_k, kind="stable")
        first_G = np.cumsum(np.bincount(group_k, minlength=self.groups))
        first_G = np.concatenate([[0], first_G[:-1]])
        rank_k = np.empty(len(row_k), np.int64)
        rank_k[order] = np.arange(len(row_k)) - first_G[group_k[order]]

        group_M = group_k[place_M]
        self.targets += len(place_M)
        self.bits += float(-log_p_k[place_M].sum() / np.log(2))
        self.group_bits += float(-np.log2(mass_G[group_M]).sum())
        self.group_hits += int((group_M == mass_G.argmax()).sum())
        self.hits += int((place_M < 10).sum())
        self.inside_hits += int((rank_k[place_M] < 10).sum())
