"""Loads a trained run and recommends items: for Python programs, and for the app `recommend`.

from torchrec_priors import load_run

with load_run("runs/ml-100k") as run:
    for found in run.recommend(history=[50, 172, 181], k=5):
        print(found.title, found.head)
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType

import numpy as np
import torch

from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import History, PreparedData
from torchrec_priors.remote.uri import Place
from torchrec_priors.retrieval.find import Finder, head_names
from torchrec_priors.serving.answer import Answer, answer
from torchrec_priors.serving.catalogue import Catalogue, ItemId
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.request import Request
from torchrec_priors.training.open_run import OpenRun, open_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: the original id of the item.
        title: the title of the item; empty if it has no title.
        score: the score by which items are ordered.
        head: the name of the prior path that gave the score, such as "short-term / Comedy". If
            `evaluation.fusion` is not `max`, it is the path that contributed most to the score.
        head_scores: the scores of the paths that may retrieve the item for this user, by name.
            Boosts are included. Heads that may not be used in this request are not.
    """

    item_id: ItemId
    title: str
    score: float
    head: str
    head_scores: dict[str, float]


def load_run(
    path: Path | str, data: Place | str | None = None, *, trust: bool = False
) -> "LoadedRun":
    """Loads the best checkpoint of a trained run. Close the run, or use it in a `with` block.

    No launcher is needed. With a launcher, each rank has a part of the embedding table, and every
    rank must make the same calls.

    Args:
        path: the folder of the run.
        data: the folder or URI of the prepared data set, if it has moved since training.
        trust: whether to execute the custom code that the run was trained with, even if this user
            has not trained with this code on this machine.

    Raises:
        UserError: the folder has no run, the run has no checkpoint yet, it was trained on other
            data, or its custom code is not trusted.
    """
    opened = open_run(Path(path), data, trust=trust)
    return LoadedRun(opened, Catalogue.of(opened.data))


class LoadedRun:
    """A trained model in memory, which recommends items.

    Any thread may call it; calls of several threads are answered one after another.
    """

    def __init__(self, opened: OpenRun, catalogue: Catalogue) -> None:
        self.folder = opened.folder
        self.config = opened.config
        self.data = opened.data
        self.catalogue = catalogue
        self._lock = Lock()
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

            # If an error occurs above, the block closes everything. Otherwise the run stays open.
            self.ranks.where.doing = "recommendations"
            self._open: ExitStack | None = opening.pop_all()

    def recommend(
        self,
        history: Sequence[ItemId] | None = None,
        *,
        user: ItemId | None = None,
        k: int = 10,
        allow: Iterable[ItemId] | None = None,
        deny: Iterable[ItemId] | None = None,
        only: Iterable[str] | None = None,
        mute: Iterable[str] | None = None,
        boost: Mapping[str, float] | None = None,
        at_least: Mapping[str, float] | None = None,
    ) -> list[Recommendation]:
        """Recommends items for a history, or for the whole history of a user of the data set.

        Args:
            history: original item ids, oldest first. Times and events of the items are unknown.
            user: the original id of a user, instead of a history.
            k: the number of items. Fewer are returned only if fewer may be recommended.
            allow: original ids of the only items that may be recommended.
            deny: original ids of items that must not be recommended.
            only: the only heads that may be used, by name ("long-term / Comedy") or group
                ("Comedy").
            mute: the heads that may not be used.
            boost: for some heads, a factor x above 0 for their probabilities; log(x) is added to
                their scores.
            at_least: for some groups, the share of the k items that must be in the group, as in
                `{"Comedy": 0.3}`. If the group has fewer items, all of them are recommended, and
                that is logged.

        Raises:
            UserError: the user, an item of the history or a head is unknown; no item or head is
                left; or k is out of range.
        """
        if (user is None) == (history is None):
            raise UserError("give either a user or a history")

        # The history of a user has the times and events that the encoder may read.
        if history is None:
            known = self.find_user(str(user))
        else:
            known = History(self.catalogue.history(history))
        levers = Levers.of(only, mute, boost, at_least)
        return self.answer([known], k, self.catalogue.allowed(allow, deny), levers)[0]

    def recommend_many(
        self,
        histories: Iterable[Sequence[ItemId]],
        *,
        k: int = 10,
        allow: Iterable[ItemId] | None = None,
        deny: Iterable[ItemId] | None = None,
        only: Iterable[str] | None = None,
        mute: Iterable[str] | None = None,
        boost: Mapping[str, float] | None = None,
        at_least: Mapping[str, float] | None = None,
    ) -> list[list[Recommendation]]:
        """Recommends items for each of several histories; the arguments are those of `recommend`.

        Returns:
            The recommendations for each history, in the order of the histories.
        """
        known = [History(self.catalogue.history(history)) for history in histories]
        allowed = self.catalogue.allowed(allow, deny)
        levers = Levers.of(only, mute, boost, at_least)
        return self.answer(known, k, allowed, levers)

    def find_user(self, user: str) -> History:
        """Reads the whole history of a user, with the columns that the encoder needs.

        Raises:
            UserError: the data set has no such user.
        """
        return self.data.find_user(user, self.columns)

    def answer(
        self,
        histories: list[History],
        k: int,
        allowed: np.ndarray | None = None,
        levers: Levers = Levers(),
    ) -> list[list[Recommendation]]:
        """Recommends items for histories.

        Args:
            histories: the histories, all with the same columns.
            k: the number of items for each history.
            allowed: bool for each row id, whether the item may be recommended; None to allow all.
            levers: how heads are used.

        Raises:
            UserError: k is out of range, no item of a history has a row, or the levers cannot be
                applied.
        """
        check_k(k, self.data)
        batch = self.config.evaluation.batch
        answers: list[list[Answer]] = []
        short_J = torch.zeros(len(levers.at_least), dtype=torch.int64)

        # Threads take turns, as their collectives must not be mixed.
        with self._lock:
            if self._open is None:
                raise RuntimeError("this run is closed: load it again")
            self._check_seen_items(histories)

            request = self.request(k, allowed, levers)
            for start in range(0, len(histories), batch):
                batch_answers, short_BJ = answer(
                    self.finder, histories[start : start + batch], request
                )
                answers += batch_answers
                short_J += short_BJ.sum(0)

        # This is not an error, as the list is as good as possible.
        for name, count in zip(levers.at_least, short_J.tolist(), strict=True):
            if count:
                lists = f"{count:,} of {len(histories):,} lists"
                if len(histories) == 1:
                    lists = "the list"
                log.warning(
                    "at-least: fewer items of '%s' in %s, because not enough of them may be"
                    " recommended",
                    name,
                    lists,
                )
        return [[self._with_names(item) for item in best] for best in answers]

    def request(self, k: int, allowed: np.ndarray | None, levers: Levers) -> Request:
        """Prepares a request for this rank. Every rank must call it with the same arguments."""
        index = self.finder.index
        # `allowed` has an entry for each item of the catalogue; the index needs one for each of
        # this rank's candidates.
        if allowed is not None:
            index = index.restricted(torch.from_numpy(allowed)[index.item_C.cpu()])
        return Request.of(self.finder, self.ranks, k, index, levers)

    def unseen(self, items: np.ndarray) -> int:
        """Counts the interactions with unseen items, which have no row of their own.

        Args:
            items: the row id of each interaction's item.
        """
        own_row_I = self.model.item_rows.own_row_I
        return 0 if own_row_I is None else int((~own_row_I[items]).sum())

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

    def _check_seen_items(self, histories: list[History]) -> None:
        """Raises UserError if no item of a history has a row: then nothing is known of the user."""
        has_row_I = self.model.item_rows.has_row_I
        if has_row_I is None:
            return

        if not all(has_row_I[history.items].any() for history in histories):
            raise UserError(
                "the history: none of its items was seen in training: train again on current data"
            )

    def _with_names(self, item: Answer) -> Recommendation:
        """Returns an answer with the original id of the item and the names of the heads."""
        return Recommendation(
            item_id=self.catalogue.item_id(item.row),
            title=self.catalogue.title(item.row),
            score=item.score,
            head=self.heads[item.path],
            head_scores={self.heads[path]: score for path, score in item.scores.items()},
        )

    def _leave(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the run; the arguments are the error that ended the `with` block, if any."""
        with self._lock:
            if self._open is None:
                return

            opened = self._open
            self._open = None
            del self.model, self.finder

            # On leaving the process group, an error of a collective is replaced by one that names
            # the lost ranks.
            opened.__exit__(kind, error, trace)


def check_k(k: int, data: PreparedData) -> None:
    """Raises UserError if the catalogue has fewer than k items."""
    if not 1 <= k <= data.items:
        raise UserError(
            f"k = {k:,} must be from 1 to the {data.items:,} items of data set "
            f"'{data.manifest.name}'"
        )
