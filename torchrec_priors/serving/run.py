"""Loads a trained run and recommends items: for Python programs, and for the app `recommend`.

from torchrec_priors import load_run

with load_run("runs/heads") as run:
    for found in run.recommend(history=[50, 172, 181], k=5):
        print(found.title, found.head)
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

import numpy as np

from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.users import History
from torchrec_priors.remote.uri import Place
from torchrec_priors.retrieval.find import Finder, head_names
from torchrec_priors.serving.catalogue import Catalogue, ItemId, ItemList
from torchrec_priors.serving.kept_queries import KeptQueries
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.request import Answer, LateError, Recommendation, Request
from torchrec_priors.serving.request_path import RequestPath
from torchrec_priors.serving.turns import Turns
from torchrec_priors.serving.user_context import Event, Skipped, UserContext
from torchrec_priors.training.open_run import OpenRun, open_run

__all__ = [
    "Answer",
    "Event",
    "ItemList",
    "LateError",
    "Levers",
    "LoadedRun",
    "Recommendation",
    "Request",
    "Skipped",
    "UserContext",
    "load_run",
]

log = logging.getLogger(__name__)


def load_run(
    path: Place | str, data: Place | str | None = None, *, trust: bool = False
) -> "LoadedRun":
    """Loads the best checkpoint of a trained run. Close the run, or use it in a `with` block.

    No launcher is needed. With a launcher, each rank has a part of the embedding table, and every
    rank must make the same calls.

    Args:
        path: the folder or URI of the run.
        data: the folder or URI of the prepared data set, if it has moved since training.
        trust: whether to execute the custom code that the run was trained with, even if this user
            has not trained with this code on this machine.

    Raises:
        UserError: the folder has no run, the run has no checkpoint yet, it was trained on other
            data, or its custom code is not trusted.
    """
    opened = open_run(path, data, trust=trust)
    return LoadedRun(opened, Catalogue.of(opened.data))


class LoadedRun:
    """A trained model in memory, which recommends items.

    Any thread may call it. With one rank on a CPU, threads are answered at the same time. Otherwise
    they take turns, as an answer takes part in collectives of all ranks: then every rank must make
    the same calls.
    """

    def __init__(self, opened: OpenRun, catalogue: Catalogue) -> None:
        self.folder = opened.folder
        self.config = opened.config
        self.data = opened.data
        self.catalogue = catalogue
        # Apps do this when they start; other Python programs do not.
        silence_library_warnings()

        with ExitStack() as opening:
            self.ranks = opening.enter_context(opened.join_ranks())
            built = opened.build(self.ranks)
            self.checkpoint = opened.load_best(built)

            self.model = built.model.eval()
            self.columns = built.columns
            self.depths = built.depths
            self.heads = head_names(built.model)

            self.finder = Finder.of(
                self.model,
                built.fetch_index(),
                self.config.evaluation,
                self.data,
                self.ranks.device,
            )
            self.finder.make_resident()
            popularity = None
            if not self.data.manifest.has_users:
                popularity = self.folder.popularity
            self.path = RequestPath(
                self.finder, self.config, self.data, catalogue, self.columns, self.ranks, popularity
            )
            self._turns = Turns(together=self.finder.is_local)

            # If an error occurs above, the block closes everything. Otherwise the run stays open.
            self.ranks.where.doing = "recommendations"
            self._open: ExitStack | None = opening.pop_all()

    # Requests

    def answer(self, requests: Sequence[Request]) -> list[Answer | UserError]:
        """Answers a batch of requests, each with its own user, levers and lists.

        A batch takes less time than its requests one after another. An answer does not depend on
        the other requests, to the last bit on a CPU.

        Args:
            requests: the requests.

        Returns:
            For each request the answer, or the error with which it is rejected: a `LateError` if
            its deadline has passed. (With several ranks, deadlines are not looked at, as the
            clocks of ranks differ.)
        """
        if not requests:
            return []
        with self._turns.turn():
            return self.path.answer(requests)

    def recommend(
        self,
        history: Sequence[ItemId | Event] | None = None,
        *,
        user: ItemId | None = None,
        session: Sequence[ItemId | Event] = (),
        groups: Mapping[str, str | Sequence[str]] | None = None,
        k: int = 10,
        allow: Iterable[ItemId] | ItemList | None = None,
        deny: Iterable[ItemId] | ItemList | None = None,
        levers: Levers | None = None,
        strict: bool = False,
        only: Iterable[str] | None = None,
        mute: Iterable[str] | None = None,
        boost: Mapping[str, float] | None = None,
        at_least: Mapping[str, float] | None = None,
    ) -> Answer:
        """Recommends items for a history, or for the history of a user of the data set.

        Args:
            history, user, session, groups: the user (see `UserContext`).
            k: the number of items. Fewer are returned only if fewer may be recommended.
            allow: original ids of the only items that may be recommended.
            deny: original ids of items that must not be recommended.
            levers: how heads are used.
            strict: whether something unknown raises an error. Otherwise it is skipped and logged.
            only, mute, boost, at_least: the levers one by one, instead of `levers`.

        Raises:
            UserError: a head is unknown; no item or head is left; or k is out of range.
        """
        given = (only, mute, boost, at_least)
        if levers is not None and any(part is not None for part in given):
            raise UserError("levers: give either levers or only, mute, boost and at_least")
        context = UserContext(user, history, session, groups or {})
        request = Request(context, k, levers or Levers.of(*given), allow, deny, strict)
        return self.recommended(request)

    def recommended(self, request: Request) -> Answer:
        """Answers one request; raises the error with which it is rejected."""
        (answer,) = self._answers([request])
        return answer

    def recommend_many(
        self,
        histories: Iterable[Sequence[ItemId | Event]],
        *,
        k: int = 10,
        allow: Iterable[ItemId] | ItemList | None = None,
        deny: Iterable[ItemId] | ItemList | None = None,
        levers: Levers | None = None,
        strict: bool = False,
        only: Iterable[str] | None = None,
        mute: Iterable[str] | None = None,
        boost: Mapping[str, float] | None = None,
        at_least: Mapping[str, float] | None = None,
    ) -> list[Answer]:
        """Recommends items for each of several histories; the arguments are those of `recommend`.

        Returns:
            The answer for each history, in the order of the histories.
        """
        levers = levers or Levers.of(only, mute, boost, at_least)
        allowed = None if allow is None else self.item_list(allow)
        denied = None if deny is None else self.item_list(deny)
        requests = [
            Request(UserContext(history=history), k, levers, allowed, denied, strict)
            for history in histories
        ]
        return self._answers(requests)

    def item_list(self, ids: Iterable[ItemId] | ItemList) -> ItemList:
        """Looks up a list of items once, for many requests that allow or deny it."""
        if isinstance(ids, ItemList):
            return ids
        return self.catalogue.item_list(ids)

    def warm_up(self) -> None:
        """Does now what would delay the first requests. Every rank must call it."""
        with self._turns.turn():
            self.path.warm_up()

    def keep_queries(self, limit: int) -> None:
        """Keeps the queries of users, so that a user's history is encoded once.

        The user is asked for again with the same history, times, events and groups; levers, lists
        and k may differ. Answers are the same to the last bit. Users who were asked for longest ago
        are dropped. `kept_queries` counts hits and misses. With several ranks, every rank must call
        it.

        Args:
            limit: the most bytes that queries may take; 0, as at first, to keep none. A user takes
                4 bytes for each head and dimension, and a kilobyte more.

        Raises:
            UserError: the number is negative.
        """
        self.path.kept.set_limit(limit)

    @property
    def kept_queries(self) -> KeptQueries:
        """The queries that are kept, with the numbers of hits and misses."""
        return self.path.kept

    def _answers(self, requests: list[Request]) -> list[Answer]:
        """Answers requests of one caller: raises the first error, and logs what was skipped."""
        answers = []
        for outcome in self.answer(requests):
            if isinstance(outcome, UserError):
                raise outcome
            answers.append(outcome)

        # These are not errors, as the lists are as good as possible.
        for name in dict.fromkeys(name for answer in answers for name in answer.short):
            count = sum(name in answer.short for answer in answers)
            lists = "the list" if len(answers) == 1 else f"{count:,} of {len(answers):,} lists"
            log.warning(
                "at-least: fewer items of '%s' in %s, because not enough of them may be"
                " recommended",
                name,
                lists,
            )
        for kind in ("users", "items", "events", "groups"):
            count = sum(getattr(answer.skipped, kind) for answer in answers)
            if count:
                noun = kind if count > 1 else kind.removesuffix("s")
                log.warning("skipped: %s unknown %s", f"{count:,}", noun)
        return answers

    def find_user(self, user: str) -> History:
        """Reads the whole history of a user, with the columns that the encoder needs.

        Raises:
            UserError: the data set has no such user.
        """
        return self.data.find_user(user, self.columns)

    def unseen(self, items: np.ndarray) -> int:
        """Counts the interactions with unseen items, which have no row of their own.

        With content, only items that have no content either are counted.

        Args:
            items: the row id of each interaction's item.
        """
        rows = self.model.item_rows
        known_I = rows.own_row_I if self.model.content is None else rows.has_row_I
        return 0 if known_I is None else int((~known_I[items]).sum())

    @property
    def never_found(self) -> int:
        """The number of items that are never recommended, as the model cannot distinguish them."""
        recommendable_I = self.model.item_rows.recommendable_I
        return 0 if recommendable_I is None else int((~recommendable_I).sum())

    def close(self) -> None:
        """Frees the model's memory and leaves the process group; a second call does nothing."""
        self._leave(None, None, None)

    def __enter__(self) -> "LoadedRun":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(kind, error, trace)

    def _leave(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the run; the arguments are the error that ended the `with` block, if any."""
        if not self._turns.close() or self._open is None:
            return

        opened = self._open
        self._open = None
        self.path.close()
        del self.model, self.finder, self.path

        # On leaving the process group, an error of a collective is replaced by one that names the
        # lost ranks.
        opened.__exit__(kind, error, trace)
