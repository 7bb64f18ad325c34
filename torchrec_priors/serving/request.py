"""A request: the items that may be recommended, and how heads are used, for any histories.

Shapes: B users, K paths, J groups with a minimum share.
"""

import math
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
    """A request that is ready to be answered on this rank.

    Attributes:
        k: the number of items for each history.
        index: the items on this rank that may be recommended.
        bias_K: added to the scores of each head, the repeat head last; -inf if the head may not be
            used. None if nothing is added.
        shares: the shares that groups must have in each list, or None.
    """

    k: int
    index: GroupIndex
    bias_K: Tensor | None = None
    shares: Shares | None = None

    @classmethod
    def of(
        cls, finder: Finder, ranks: Ranks, k: int, index: GroupIndex, levers: Levers
    ) -> "Request":
        """Prepares a request. Every rank must call it with the same request.

        Args:
            finder: the finder of the model.
            ranks: all ranks.
            k: the number of items for each history.
            index: the items on this rank that may be recommended.
            levers: how heads are used.

        Raises:
            UserError: a lever names no head; the levers leave no head or no item; or the shares
                need more than k items.
        """
        if levers.at_least and finder.diversifier is not None:
            raise UserError(
                "at-least: this run diversifies its lists (evaluation.diversify), which "
                "cannot be combined with shares"
            )

        names = HeadNames(finder.model.tree, repeats=finder.model.repeat_head is not None)
        bias_K = levers.bias(names)
        path_K = levers.shares(names)
        # The remaining heads may be unable to retrieve any of the allowed items. Each rank counts
        # only its own items, so the counts are added up.
        if bias_K is not None:
            is_used_K = ~torch.isneginf(bias_K)
            paths = len(finder.model.tree.item_set_K)
            reached = index.reach(is_used_K[:paths]).sum()
            # What the repeat head retrieves depends on the history.
            if not int(ranks.total(reached)) and not is_used_K[paths:].any():
                raise UserError(
                    "only, mute: the heads that may answer retrieve none of the items that are "
                    "allowed: allow more items, or name other heads"
                )
            bias_K = bias_K.to(finder.device)

        shares = Shares(dict(levers.at_least), path_K, k, index, ranks.total) if path_K else None
        return cls(k, index, bias_K, shares)

    def queries(self, finder: Finder, users: Histories) -> Queries:
        """Returns the queries to search with for this rank's users. Every rank must call it.

        Args:
            finder: the finder of the model.
            users: the users (see `Finder.contexts`).
        """
        queries = finder.queries(users, ask_each(finder, users))
        # A bias of -inf closes a path.
        if self.bias_K is None:
            return queries

        paths = queries.bias_BK.shape[1]
        repeats = queries.repeats
        if repeats is not None:
            bias = float(self.bias_K[paths])
            repeats = None if math.isinf(bias) else repeats.with_bias(bias)
        return Queries(queries.vector_BKd, queries.bias_BK + self.bias_K[:paths], repeats)

    def find(self, finder: Finder, users: Histories, queries: Queries) -> tuple[Found, Tensor]:
        """Finds the items of this rank's users. Every rank must call it.

        Args:
            finder: the finder of the model.
            users: the users (see `Finder.contexts`).
            queries: the queries of the users.

        Returns:
            The k best items of each user; and bool [B, J], whether a list has fewer items of a
            group than the group's share.
        """
        if self.shares is None:
            found = finder.find(users, queries, self.k, self.index)
            return found, torch.zeros(len(users), 0, dtype=torch.bool)
        return self.shares.find(lambda index: finder.find(users, queries, self.k, index))
