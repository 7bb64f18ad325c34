"""The way of a batch of requests through a run: from original ids to named recommendations."""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.errors import UserError
from torchrec_priors.ops.single_thread import single_thread
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.retrieval.find import Finder, head_names
from torchrec_priors.retrieval.item_filter import EVERYTHING, ItemFilter
from torchrec_priors.retrieval.together import CHECKS
from torchrec_priors.serving.answering import Answering, PreparedRequest
from torchrec_priors.serving.catalogue import Catalogue, ItemId, ItemList
from torchrec_priors.serving.explained import Explainer
from torchrec_priors.serving.kept_queries import KeptQueries
from torchrec_priors.serving.known_users import KnownUser, KnownUsers
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.levers_of_run import LeversOfRun
from torchrec_priors.serving.popular import PopularItems, Popularity
from torchrec_priors.serving.queries import ask_known
from torchrec_priors.serving.request import Answer, LateError, Request
from torchrec_priors.serving.shares import Shares
from torchrec_priors.serving.stored_users import StoredUsers
from torchrec_priors.serving.user_context import UserContext
from torchrec_priors.settings.run_config import RunConfig

_TRIED = 8  # users who are encoded before the first request
_FEWEST = 4  # requests that are worth a thread of their own
_MOST_THREADS = 64

Outcome = Answer | UserError


class RequestPath:
    """Answers batches of requests.

    If `finder.is_local`, any number of threads may call it at the same time. Otherwise every rank
    must make the same calls, one after another.

    Attributes:
        stored: the users of the data set.
        levers: the levers of requests, prepared.
        explainer: names items and heads.
        kept: the queries of users who were answered before; at first, nothing is kept.
        threads: the most threads that answer a batch; at first, as many as PyTorch has.
    """

    def __init__(
        self,
        finder: Finder,
        config: RunConfig,
        data: PreparedData,
        catalogue: Catalogue,
        columns: Sequence[str],
        ranks: Ranks,
        popularity: Path | None = None,
    ) -> None:
        """
        Args:
            finder: the finder of the run.
            config: the configuration of the run.
            data: the data set.
            catalogue: its items.
            columns: the columns that the encoder reads in addition to the items.
            ranks: all ranks.
            popularity: the file of popular items, if the data set lacks its users.
        """
        tree = finder.model.tree
        self._finder = finder
        self._config = config
        self._data = data
        self._catalogue = catalogue
        self._popularity = popularity
        self.stored = StoredUsers(data, columns)
        self.levers = LeversOfRun(finder, data.items, ranks.total)
        self._users = KnownUsers(data, catalogue, self.stored, tree, columns)
        self.kept = KeptQueries()
        self.explainer = Explainer(tree, catalogue, head_names(finder.model), data)

        # These take time or memory, so they are made when they are first needed.
        self._making = Lock()
        self._answering: Answering | None = None
        self._popular: PopularItems | None = None
        self._pool: ThreadPoolExecutor | None = None
        self.threads = torch.get_num_threads() if finder.is_local else 1

    def answer(self, requests: Sequence[Request]) -> list[Outcome]:
        """Answers requests (see `LoadedRun.answer`)."""
        outcomes: list[Outcome | None] = [None] * len(requests)
        prepared: dict[int, PreparedRequest] = {}
        for number, one in enumerate(self._prepared(requests)):
            if isinstance(one, UserError):
                outcomes[number] = one
            else:
                prepared[number] = one

        parts = self._parts(list(prepared))
        # Threads that answer no part of their own help with the searches.
        searching = max(1, self.threads // max(1, len(parts)))

        def answer_part(numbers: list[int]) -> list[Outcome]:
            return self._answer_part(requests, prepared, numbers, searching)

        # The last part is answered by this thread.
        waiting = [self._workers().submit(answer_part, numbers) for numbers in parts[:-1]]
        answered = [answer_part(numbers) for numbers in parts[-1:]]
        answered = [*(future.result() for future in waiting), *answered]
        for numbers, of_part in zip(parts, answered, strict=True):
            for number, outcome in zip(numbers, of_part, strict=True):
                outcomes[number] = outcome
        assert None not in outcomes
        return [outcome for outcome in outcomes if outcome is not None]

    def known_user(self, context: UserContext, *, strict: bool = False) -> KnownUser:
        """Returns what is known of a user.

        Raises:
            UserError: the request is strict, and something is unknown.
        """
        (user,) = self._users.find([context], [strict])
        if isinstance(user, UserError):
            raise user
        return user

    def warm_up(self) -> None:
        """Makes what is otherwise made when it is first needed. Every rank must call it."""
        _ = self._catalogue.index
        _ = self.stored.index
        self._made()
        if self._finder.is_local:
            self._encode_some()

    def _encode_some(self) -> None:
        """Encodes users of the data set, so that no request has to check how this is done."""
        ids = self._data.user_texts()[:_TRIED].to_pylist()
        users = self._users.find([UserContext(user=user) for user in ids], [False] * len(ids))
        has_row_I = self._finder.model.item_rows.has_row_I
        histories = [
            user.history
            for user in users
            if isinstance(user, KnownUser) and _has_any(user.history.items, has_row_I)
        ]
        if len(histories) > 1:
            for _ in range(CHECKS):
                ask_known(self._finder, histories)

    def popular(self) -> PopularItems:
        """Returns what answers requests without a history. Every rank must call it."""
        self._made()
        assert self._popular is not None
        return self._popular

    def popularity(self) -> Popularity:
        """Returns the popularity of all items, which is counted or read anew."""
        tree = self._finder.model.tree
        if self._popularity is not None and Popularity.needs_log(tree):
            return Popularity.read(self._popularity, tree)
        ends = training_ends(self._data, self._config.training)
        return Popularity.of(tree, self._data, np.asarray(ends))

    def close(self) -> None:
        """Ends the threads. No call may be running."""
        if self._pool is not None:
            self._pool.shutdown()

    def shares(self, levers: Levers, k: int, item_filter: ItemFilter | None) -> Shares | None:
        """Checks levers against a filter and returns their shares. Every rank must call it.

        Raises:
            UserError: the levers cannot be applied.
        """
        prepared = self.levers.prepare(levers)
        self.levers.check(prepared, item_filter)
        return self.levers.shares(levers, prepared, k, item_filter)

    def _prepared(self, requests: Sequence[Request]) -> list[PreparedRequest | UserError]:
        """Looks up everything that requests name."""
        contexts = [request.context for request in requests]
        users = self._users.find(contexts, [request.strict for request in requests])
        lists = _Lists(self._catalogue)

        prepared: list[PreparedRequest | UserError] = []
        for request, user in zip(requests, users, strict=True):
            if isinstance(user, UserError):
                prepared.append(user)
                continue
            try:
                prepared.append(self._prepare(request, user, lists))
            except UserError as error:
                prepared.append(error)
        return prepared

    def _prepare(self, request: Request, user: KnownUser, lists: "_Lists") -> PreparedRequest:
        check_k(request.k, self._data)
        item_filter, allow, deny = lists.filter_of(request)
        if request.strict:
            self._check_strictly(user, allow, deny)
        levers = self.levers.prepare(request.levers)
        self.levers.check(levers, item_filter)
        shares = self.levers.shares(request.levers, levers, request.k, item_filter)

        if allow is not None or deny is not None:
            unknown = replace(
                user.skipped,
                allow=0 if allow is None else allow.unknown,
                deny=0 if deny is None else deny.unknown,
            )
            user = replace(user, skipped=unknown)
        return PreparedRequest(
            user,
            request.k,
            item_filter or EVERYTHING,
            levers.bias_K,
            shares,
            request.explain,
        )

    def _check_strictly(
        self, user: KnownUser, allow: ItemList | None, deny: ItemList | None
    ) -> None:
        """Raises UserError if a list has unknown items, or the model knows none of the history."""
        for name, items in (("allow", allow), ("deny", deny)):
            if items is not None and items.unknown:
                raise UserError(
                    f"{name}: {items.unknown:,} of {len(items):,} items are not in data set "
                    f"'{self._data.manifest.name}'"
                )
        has_row_I = self._finder.model.item_rows.has_row_I
        if has_row_I is not None and not has_row_I[user.history.items].any():
            raise UserError(
                "the history: none of its items was seen in training: train again on current data"
            )

    def _parts(self, numbers: list[int]) -> list[list[int]]:
        """Divides requests into parts, each of which one thread answers."""
        if not numbers:
            return []
        threads = max(1, min(self.threads, len(numbers) // _FEWEST))
        most = min(-(-len(numbers) // threads), self._config.evaluation.batch)
        return [numbers[first : first + most] for first in range(0, len(numbers), most)]

    def _answer_part(
        self,
        requests: Sequence[Request],
        prepared: dict[int, PreparedRequest],
        numbers: list[int],
        threads: int,
    ) -> list[Outcome]:
        """Answers some of the requests, unless their deadlines have passed."""
        if not self._finder.is_local:
            return self._made().answer([prepared[number] for number in numbers])

        in_time = [number for number in numbers if not _is_late(requests[number])]
        with single_thread():
            answers = self._made().answer([prepared[number] for number in in_time], threads)
        # An answer without items is false, too, so it is asked for by its number.
        outcomes: dict[int, Outcome] = dict(zip(in_time, answers, strict=True))
        return [outcomes[number] if number in outcomes else _too_late() for number in numbers]

    def _made(self) -> Answering:
        """Returns what answers prepared requests."""
        with self._making:
            if self._answering is None:
                self._popular = PopularItems(self._finder, self.popularity())
                self._answering = Answering(self._finder, self._popular, self.explainer, self.kept)
            return self._answering

    def _workers(self) -> ThreadPoolExecutor:
        """Returns the threads that answer parts of a batch."""
        with self._making:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_MOST_THREADS, "torchrec-priors-request")
            return self._pool


class _Lists:
    """The allow and deny lists of a batch. A list that several requests have is looked up once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._found: dict[int, ItemList] = {}
        self._filters: dict[tuple[int, int], ItemFilter | None] = {}

    def filter_of(
        self, request: Request
    ) -> tuple[ItemFilter | None, ItemList | None, ItemList | None]:
        """Returns the filter of a request, and its lists.

        Raises:
            UserError: no item is left.
        """
        allow = self._find(request.allow)
        deny = self._find(request.deny)
        key = (id(allow), id(deny))
        if key not in self._filters:
            self._filters[key] = self._catalogue.filter_of(allow, deny)
        return self._filters[key], allow, deny

    def _find(self, ids: Iterable[ItemId] | ItemList | None) -> ItemList | None:
        if ids is None or isinstance(ids, ItemList):
            return ids
        # The requests hold the lists, so their identities stay different.
        if id(ids) not in self._found:
            self._found[id(ids)] = self._catalogue.item_list(ids)
        return self._found[id(ids)]


def _has_any(items: np.ndarray, has_row_I: np.ndarray | None) -> bool:
    """Returns whether the model knows any of the items."""
    return len(items) > 0 and (has_row_I is None or bool(has_row_I[items].any()))


def check_k(k: int, data: PreparedData) -> None:
    """Raises UserError if the catalogue has fewer than k items."""
    if not 1 <= k <= data.items:
        raise UserError(
            f"k = {k:,} must be from 1 to the {data.items:,} items of data set "
            f"'{data.manifest.name}'"
        )


def _is_late(request: Request) -> bool:
    return request.deadline is not None and time.monotonic() > request.deadline


def _too_late() -> LateError:
    return LateError("the deadline of this request has passed")
