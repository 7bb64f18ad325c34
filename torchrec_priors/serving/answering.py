"""Answers a batch of requests, each with its own user, levers and lists.

    prepare       what requests name -> row ids, bits, biases      all requests together
    ask_known     histories -> queries of all heads                one history after another,
                                                                   if they are not kept
    find          queries -> best items                            all requests in one pass
    explained     best items -> scores of all heads, names         one user after another,
                                                                   scores only if they are wanted

An answer does not depend on the other requests of the batch, to the last bit on a CPU.

Shapes: B users, K paths, k items, J groups with a share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.priors.paths_of_users import GivenGroups
from torchrec_priors.priors.prior import is_of_users
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.head_scores import head_scores
from torchrec_priors.retrieval.item_filter import EVERYTHING, ItemFilter
from torchrec_priors.retrieval.search_types import Found, Queries
from torchrec_priors.serving.explained import AskedFor, Explainer
from torchrec_priors.serving.kept_queries import KeptQueries, joined, key_of
from torchrec_priors.serving.known_users import KnownUser
from torchrec_priors.serving.popular import PopularItems
from torchrec_priors.serving.queries import ask_known, batch_of
from torchrec_priors.serving.request import Answer, Source
from torchrec_priors.serving.score_names import score_name
from torchrec_priors.serving.shares import Shares

# Finds the k best items of users.
_Find = Callable[[Histories, Queries, int, list[ItemFilter] | None], Found]


@dataclass(frozen=True)
class PreparedRequest:
    """A request in the terms of the model.

    Attributes:
        user: the user.
        k: the number of items.
        item_filter: the items that may be recommended.
        bias_K: added to the scores of each head, the repeat head last; None if nothing is added.
        shares: the shares that groups must have in the list; None without shares.
        explain: whether the scores of all heads are wanted.
    """

    user: KnownUser
    k: int
    item_filter: ItemFilter = EVERYTHING
    bias_K: Tensor | None = None
    shares: Shares | None = None
    explain: bool = True


@dataclass(frozen=True)
class _Listed:
    """The lists of a batch of users.

    Attributes:
        found: the best items.
        queries: the queries of the search.
        short: for each user, the groups with too few items.
    """

    found: Found
    queries: Queries
    short: list[tuple[str, ...]]


class Answering:
    """Answers batches of prepared requests.

    With one rank on a CPU, any number of threads may call it at the same time. With several ranks,
    every rank must make the same calls, in the same order.
    """

    def __init__(
        self, finder: Finder, popular: PopularItems, explainer: Explainer, kept: KeptQueries
    ) -> None:
        self._finder = finder
        self._popular = popular
        self._explainer = explainer
        self._kept = kept
        levels = enumerate(finder.model.tree.levels)
        self._user_levels = frozenset(number for number, level in levels if is_of_users(level))
        self._score_names: dict[Source, str] = {
            "model": self._score_name("model"),
            "popularity": self._score_name("popularity"),
        }

    def answer(
        self, requests: Sequence[PreparedRequest], threads: int = 1
    ) -> list[Answer | UserError]:
        """Answers requests.

        Args:
            requests: the requests.
            threads: the most threads of a search.

        Returns:
            For each request the answer, or the error with which it is rejected.
        """
        answers: list[Answer | UserError] = [Answer([])] * len(requests)
        known = [number for number, one in enumerate(requests) if self._has_history(one)]
        unknown = sorted(set(range(len(requests))) - set(known))
        for numbers, answer in ((known, self._by_model), (unknown, self._by_popularity)):
            if numbers:
                of_part = answer([requests[number] for number in numbers], threads)
                for number, one in zip(numbers, of_part, strict=True):
                    answers[number] = one
        return answers

    def _has_history(self, request: PreparedRequest) -> bool:
        """Whether the model knows any item of the user's history."""
        items = request.user.history.items
        has_row_I = self._finder.model.item_rows.has_row_I
        return len(items) > 0 and (has_row_I is None or bool(has_row_I[items].any()))

    @torch.no_grad()
    def _by_model(self, requests: list[PreparedRequest], threads: int) -> list[Answer | UserError]:
        users, queries = self._asked([request.user for request in requests])

        def find(
            users: Histories, queries: Queries, k: int, filters: list[ItemFilter] | None
        ) -> Found:
            return self._finder.find(users, queries, k, filters=filters, threads=threads)

        listed = self._lists(requests, users, queries, find)

        # The lookup of vectors is a collective. All ranks want the same explanations.
        wanted = [number for number, request in enumerate(requests) if request.explain]
        scores: dict[int, Tensor] = {}
        if len(wanted) == len(requests):
            scores = dict(enumerate(head_scores(self._finder, listed.queries, listed.found)))
        elif wanted:
            some = head_scores(self._finder, listed.queries.of(wanted), listed.found.of(wanted))
            scores = dict(zip(wanted, some, strict=True))
        return self._answers(requests, listed, scores, "model")

    def _asked(self, people: list[KnownUser]) -> tuple[Histories, Queries]:
        """Returns users with their queries. Those that are kept are not computed again."""
        if not self._kept.is_on:
            return self._computed(people)

        keys = [key_of(one) for one in people]
        queries = self._kept.find(keys)
        missing = {key: one for key, one in zip(keys, people, strict=True) if key not in queries}
        if missing:
            _, computed = self._computed(list(missing.values()))
            for place, key in enumerate(missing):
                queries[key] = computed.of([place])
                self._kept.keep(key, queries[key])
        users = batch_of(self._finder, [one.history for one in people])
        return users, joined([queries[key] for key in keys])

    def _computed(self, people: list[KnownUser]) -> tuple[Histories, Queries]:
        """Computes the queries of users."""
        users, asked = ask_known(self._finder, [one.history for one in people])
        return users, self._finder.queries(users, asked, given_groups(self._finder, people))

    @torch.no_grad()
    def _by_popularity(self, requests: list[PreparedRequest], _: int) -> list[Answer | UserError]:
        people = [request.user for request in requests]
        users = batch_of(self._finder, [one.history for one in people])
        queries = self._popular.queries(users, given_groups(self._finder, people))

        listed = self._lists(requests, users, queries, self._popular.find)
        scores: dict[int, Tensor] = {}
        for number, request in enumerate(requests):
            if request.explain:
                row_k = listed.found.row_Bk[number]
                rows_k = row_k[row_k >= 0].cpu().numpy()
                bias_K = listed.queries.bias_BK[number]
                scores[number] = self._popular.head_scores(rows_k, bias_K)
        return self._answers(requests, listed, scores, "popularity")

    def _lists(
        self,
        requests: list[PreparedRequest],
        users: Histories,
        queries: Queries,
        find: _Find,
    ) -> _Listed:
        """Finds the lists of a batch of users. A list is empty after the k items of its request."""
        listed = self._lists_of_largest(requests, users, queries, find)
        for number, request in enumerate(requests):
            if request.k < listed.found.row_Bk.shape[1]:
                listed.found.row_Bk[number, request.k :] = -1
        return listed

    def _lists_of_largest(
        self,
        requests: list[PreparedRequest],
        users: Histories,
        queries: Queries,
        find: _Find,
    ) -> _Listed:
        """Finds lists that all have the largest k."""
        queries = with_biases(queries, [request.bias_K for request in requests])
        k = max(request.k for request in requests)
        short: list[tuple[str, ...]] = [()] * len(requests)

        plain = [number for number, one in enumerate(requests) if one.shares is None]
        filters = [one.item_filter for one in requests]
        if len(plain) == len(requests):
            return _Listed(_found(find, users, queries, k, filters), queries, short)

        # A request with shares has a search for each cell of its groups.
        device = queries.bias_BK.device
        row_Bk = torch.full((len(requests), k), -1, dtype=torch.int64, device=device)
        whole = Found(row_Bk, torch.full(row_Bk.shape, -torch.inf, device=device), row_Bk.clone())
        if plain:
            part = _found(
                find, users.chosen(plain), queries.of(plain), k, [filters[one] for one in plain]
            )
            whole.put(plain, part)
        for number, request in enumerate(requests):
            if request.shares is None:
                continue
            one = users.chosen([number])
            asked = queries.of([number])

            def search(
                bits: np.ndarray,
                one: Histories = one,
                asked: Queries = asked,
                request: PreparedRequest = request,
            ) -> Found:
                within = request.item_filter.within(bits)
                return _found(find, one, asked, request.k, [within])

            found, short_BJ = request.shares.find(search)
            whole.put([number], found)
            lacking = zip(request.shares.names, short_BJ[0].tolist(), strict=True)
            short[number] = tuple(name for name, is_short in lacking if is_short)
        return _Listed(whole, queries, short)

    def _repeats(self, request: PreparedRequest) -> bool:
        """Whether the repeat head may answer a request."""
        if self._finder.model.repeat_head is None or self._finder.config.filter_seen:
            return False
        return request.bias_K is None or not bool(torch.isneginf(request.bias_K[-1]))

    def _answers(
        self,
        requests: list[PreparedRequest],
        listed: _Listed,
        scores: dict[int, Tensor],
        source: Source,
    ) -> list[Answer | UserError]:
        """Puts answers together.

        Args:
            requests: the requests.
            listed: their lists.
            scores: the scores of all paths for the items of the requests that want them, [k, K].
            source: see `Answer`.
        """
        # Without this check, a user with only closed paths would get an empty list, without a
        # reason.
        closed_B = torch.isneginf(listed.queries.bias_BK).all(1).tolist()
        found = listed.found
        lists = zip(
            found.row_Bk.tolist(), found.score_Bk.tolist(), found.path_Bk.tolist(), strict=True
        )
        answers: list[Answer | UserError] = []
        for number, (request, parts) in enumerate(zip(requests, lists, strict=True)):
            if closed_B[number] and request.bias_K is not None and not self._repeats(request):
                answers.append(_only_closed_heads())
                continue
            user = AskedFor(source, request.user.history.items, self._known_levels(request.user))
            items = self._explainer.explained(*parts, scores.get(number), user)
            short = listed.short[number]
            answers.append(
                Answer(items, source, request.user.skipped, short, self._score_names[source])
            )
        return answers

    def _known_levels(self, user: KnownUser) -> frozenset[int]:
        """Returns the levels of users of which the user's groups are known."""
        if user.history.user >= 0:
            return self._user_levels
        return frozenset(user.groups)

    def _score_name(self, source: Source) -> str:
        """Returns what the scores of answers are."""
        model = self._finder.model
        return score_name(
            self._finder.config,
            heads=len(model.tree.item_set_K) + (model.repeat_head is not None),
            score=model.score.kind,
            calibrated=self._finder.calibrated,
            joint=model.joint is not None,
            source=source,
        )


def _found(
    find: _Find, users: Histories, queries: Queries, k: int, filters: list[ItemFilter]
) -> Found:
    """Finds the best items of users, each with a filter."""
    used = None if all(one.is_empty for one in filters) else filters
    return find(users, queries, k, used)


def given_groups(finder: Finder, users: Sequence[KnownUser]) -> GivenGroups | None:
    """Returns the groups that requests give of their users: bool [B, G] by level; None if none."""
    given: dict[int, Tensor] = {}
    for row, user in enumerate(users):
        for number, groups in user.groups.items():
            if number not in given:
                size = len(finder.model.tree.levels[number].groups)  # type: ignore[arg-type]
                given[number] = torch.zeros(
                    len(users), size, dtype=torch.bool, device=finder.device
                )
            given[number][row, list(groups)] = True
    return given or None


def with_biases(queries: Queries, biases: list[Tensor | None]) -> Queries:
    """Adds the biases of requests, which may also concern the repeat head."""
    if all(bias_K is None for bias_K in biases):
        return queries

    paths = queries.bias_BK.shape[1]
    none_K = queries.bias_BK.new_zeros(paths + 1)
    bias_BK = torch.stack([none_K[:paths] if one is None else one[:paths] for one in biases])
    queries = replace(queries, bias_BK=queries.bias_BK + bias_BK)
    if queries.repeats is None:
        return queries

    of_repeats_B = torch.stack([none_K[paths] if one is None else one[paths] for one in biases])
    return replace(queries, repeats=queries.repeats.with_biases(of_repeats_B))


def _only_closed_heads() -> UserError:
    return UserError(
        "only, mute: the heads that are left belong to groups that this user is not in: "
        "name heads of this user's groups"
    )
