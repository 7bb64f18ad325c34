"""A trained run, loaded to answer: what the `recommend` app and Python programs call.

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
from torchrec_priors.retrieval.find import Finder
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
        item_id: original id.
        title: for display; empty if the item has none.
        score: what the items are ordered by.
        head: name of the prior path that gave the score, "short-term / Comedy". Unless
            `evaluation.fusion` is `max`, it is the path that contributed most.
        head_scores: by name, the score of every path that may retrieve the item for this user, as
            it was used: with boosts, and without heads that may not answer.
    """

    item_id: ItemId
    title: str
    score: float
    head: str
    head_scores: dict[str, float]


def load_run(
    path: Path | str, data: Place | str | None = None, *, trust: bool = False
) -> "LoadedRun":
    """Loads the best checkpoint of a trained run; close it, or use it in a `with` block.

    Needs no launcher. Under one, every rank must load and call alike, and each holds its share of
    the table.

    Args:
        path: folder of the run.
        data: prepared data set or its URI, if it has moved since training.
        trust: run the custom code that the run was trained with, even if this user has not
            trained with it here.

    Raises:
        UserError: no run there, no checkpoint yet, other data than it was trained on, or custom
            code that is not trusted.
    """
    opened = open_run(Path(path), data, trust=trust)
    return LoadedRun(opened, Catalogue.of(opened.data))


class LoadedRun:
    """A model in memory, ready to answer any number of times, from any thread (one at a time)."""

    def __init__(self, opened: OpenRun, catalogue: Catalogue) -> None:
        self.folder = opened.folder
        self.config = opened.config
        self.data = opened.data
        self.catalogue = catalogue
        self._lock = Lock()
        # Also for Python programs, which do not start through an app.
        silence_library_warnings()

        with ExitStack() as opening:
            self.ranks = opening.enter_context(opened.join_ranks())
            built = opened.build(self.ranks)
            self.checkpoint = opened.load_best(built)

            self.model = built.model.eval()
            self.columns = built.columns
            self.depths = built.depths
            self.heads = [path.name for path in built.model.tree.paths]

            self.finder = Finder.of(
                self.model,
                built.fetch_index(),
                self.config.evaluation,
                self.data,
                self.ranks.device,
            )

            # Only a run that is loaded whole stays open after this block.
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
        """Top-k for a history, or for the whole history of a user of the data set.

        Args:
            history: original item ids, oldest first. An encoder that uses times or events does
                without them.
            user: original id of a user, instead of a history.
            k: how many items. Fewer are returned only if fewer may be recommended.
            allow: original ids of the only items that may be recommended.
            deny: original ids of items that must not be recommended.
            only: heads that may answer, by their names ("long-term / Comedy") or groups
                ("Comedy").
            mute: heads that may not answer.
            boost: factors above 0 of heads' probabilities: log(x) is added to their scores.
            at_least: shares of the k items that must be of groups, `{"Comedy": 0.3}`. If a group
                has fewer items, it gets all of them, and that is logged.

        Raises:
            UserError: an unknown user, item of the history or head, no item or head left, k out
                of range.
        """
        if (user is None) == (history is None):
            raise UserError("give either a user or a history")

        # A user's history has times and events; one of item ids has only the items.
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
        """Top-k for each of several histories, in their order; arguments as for `recommend`."""
        known = [History(self.catalogue.history(history)) for history in histories]
        allowed = self.catalogue.allowed(allow, deny)
        levers = Levers.of(only, mute, boost, at_least)
        return self.answer(known, k, allowed, levers)

    def find_user(self, user: str) -> History:
        """The whole history of a user of the data set, with the columns that the encoder reads.

        Raises:
            UserError: no such user exists.
        """
        return self.data.find_user(user, self.columns)

    def answer(
        self,
        histories: list[History],
        k: int,
        allowed: np.ndarray | None = None,
        levers: Levers = Levers(),
    ) -> list[list[Recommendation]]:
        """Top-k for histories; `allowed` as `Catalogue.allowed` gives it."""
        check_k(k, self.data)
        batch = self.config.evaluation.batch
        answers: list[list[Answer]] = []
        short_J = torch.zeros(len(levers.at_least), dtype=torch.int64)

        # One answer at a time: threads would mix up their collectives.
        with self._lock:
            if self._open is None:
                raise RuntimeError("this run is closed: load it again")
            self._check_seen_items(histories)

            # The request is prepared once for all batches.
            request = self.request(k, allowed, levers)
            for start in range(0, len(histories), batch):
                batch_answers, short_BJ = answer(
                    self.finder, histories[start : start + batch], request
                )
                answers += batch_answers
                short_J += short_BJ.sum(0)

        # Not an error: the list is as good as it can be.
        for name, count in zip(levers.at_least, short_J.tolist(), strict=True):
            if count:
                lists = f"{count:,} of {len(histories):,} lists"
                if len(histories) == 1:
                    lists = "the list"
                log.warning(
                    "at-least: fewer items of '%s' in %s, as no more may be recommended",
                    name,
                    lists,
                )
        return [[self._with_names(item) for item in best] for best in answers]

    def request(self, k: int, allowed: np.ndarray | None, levers: Levers) -> Request:
        """The request as this rank answers it. Every rank must call it alike."""
        index = self.finder.index
        # `allowed` is by row of the catalogue, the index wants it by candidate.
        if allowed is not None:
            index = index.restricted(torch.from_numpy(allowed)[index.item_C.cpu()])
        return Request.of(self.finder, self.ranks, k, index, levers)

    def unseen(self, items: np.ndarray) -> int:
        """The number of interactions, given by row id, with items that have no row of their own."""
        own_row_I = self.model.item_rows.own_row_I
        return 0 if own_row_I is None else int((~own_row_I[items]).sum())

    @property
    def never_found(self) -> int:
        """Items that are never recommended, as the model cannot distinguish them."""
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
        """Raises UserError if no item of a history has a row, i.e. nothing is known of the user."""
        has_row_I = self.model.item_rows.has_row_I
        if has_row_I is None:
            return

        if not all(has_row_I[history.items].any() for history in histories):
            raise UserError(
                "the history: none of its items was seen in training: train on the data of today"
            )

    def _with_names(self, item: Answer) -> Recommendation:
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
        with self._lock:
            if self._open is None:
                return

            opened = self._open
            self._open = None
            del self.model, self.finder

            # Leaving the process group turns an error of a collective into one that names the
            # ranks that are lost.
            opened.__exit__(kind, error, trace)


def check_k(k: int, data: PreparedData) -> None:
    """Raises UserError if the catalogue has fewer than k items."""
    if not 1 <= k <= data.items:
        raise UserError(
            f"k = {k:,} must be from 1 to the {data.items:,} items of data set "
            f"'{data.manifest.name}'"
        )
