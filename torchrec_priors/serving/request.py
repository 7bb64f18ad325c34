"""One request: which items may be found and how heads count, for any number of histories.

Shapes: B users, K paths, J groups with a least share.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search_types import Found, Queries
from torchrec_priors.serving.head_names import HeadNames
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.queries import ask_each
from torchrec_priors.serving.shares import Shares


@dataclass(frozen=True)
class Request:
    """A request, ready to be answered by this rank.

    Attributes:
        k: results a user.
        index: what may be found on this rank.
        bias_K: added to every head's scores, -inf for heads that may not answer; None if nothing is
            added.
        shares: of groups in the list, or None.
    """

    k: int
    index: GroupIndex
    bias_K: Tensor | None = None
    shares: Shares | None = None

    @classmethod
    def of(
        cls, finder: Finder, ranks: Ranks, k: int, index: GroupIndex, levers: Levers
    ) -> "Request":
        """Prepares a request. Every rank must call it alike.

        Raises:
            UserError: levers that name no heads, leave none, leave no item, or want too much.
        """
        if levers.at_least and finder.diversifier is not None:
            raise UserError(
                "at-least: lists of this run are diversified (evaluation.diversify), "
                "which lists with shares cannot be"
            )

        names = HeadNames(finder.model.tree)
        bias_K = levers.bias(names)
        path_K = levers.shares(names)
        # Heads and allowed items may exclude one another; no rank can know that of all items.
        if bias_K is not None:
            reached = index.reach(~torch.isneginf(bias_K)).sum()
            if not int(ranks.total(reached)):
                raise UserError(
                    "only, mute: the heads that may answer retrieve none of the items that are "
                    "allowed: allow more items, or name other heads"
                )
            bias_K = bias_K.to(finder.device)

        shares = Shares(dict(levers.at_least), path_K, k, index, ranks.total) if path_K else None
        return cls(k, index, bias_K, shares)

    def queries(self, finder: Finder, users: Histories) -> Queries:
        """The queries to search with, for this rank's users. Every rank must call it."""
        queries = finder.queries(users, ask_each(finder, users))
        # A head that may not answer gets -inf, as paths that are closed to the user have.
        if self.bias_K is None:
            return queries
        return Queries(queries.vector_BKd, queries.bias_BK + self.bias_K)

    def find(self, finder: Finder, users: Histories, queries: Queries) -> tuple[Found, Tensor]:
        """Top-k of this rank's users; and bool [B, J]: whether a user has fewer items of a group
        than its share. Every rank must call it."""
        if self.shares is None:
            found = finder.find(users, queries, self.k, self.index)
            return found, torch.zeros(len(users), 0, dtype=torch.bool)
        return self.shares.find(lambda index: finder.find(users, queries, self.k, index))
