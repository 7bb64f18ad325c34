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
from datetime import timedelta
from pathlib import Path
from threading import Lock
from types import TracebackType

import numpy as np
import torch

from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.config import RunConfig
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import History, PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.remote.uri import Place
from torchrec_priors.retrieval.diversify import Diversifier
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.serving.answer import Answer, answer
from torchrec_priors.serving.catalogue import Catalogue, ItemId
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.request import Request
from torchrec_priors.training.build import build_model
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints
from torchrec_priors.training.run.folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: original id.
        title: for people.
        score: what the items are ordered by.
        head: name of the prior path that gave the score, "short-term / Comedy", or of the one that contributed most
            where `evaluation.fusion` is not `max`.
        head_scores: the score of every path that may retrieve the item for this user, by name, as it was used: boosted,
            and without heads that may not answer.
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

    Needs no launcher; under one, every rank must load and call alike, and each holds its share of the table.

    Args:
        path: folder of the run.
        data: prepared data set or its URI, where it has moved since training.
        trust: run files of own code that the run was trained with, though this user has not trained with them here.

    Raises:
        UserError: no run there, no checkpoint yet, other data than it was trained on, or own code that is not trusted.
    """
    folder = RunFolder(Path(path), trust)
    config, prepared = folder.open(data)
    return LoadedRun(folder, config, prepared, Catalogue.of(prepared))


class LoadedRun:
    """A model in memory, ready to answer any number of times, from any thread (one call at a time)."""

    def __init__(
        self, folder: RunFolder, config: RunConfig, data: PreparedData, catalogue: Catalogue
    ) -> None:
        self.folder = folder
        self.config = config
        self.data = data
        self.catalogue = catalogue
        self._lock = Lock()
        silence_library_warnings()
        folder.say_grown(config, data)
        with ExitStack() as opening:
            self.ranks = opening.enter_context(
                join(timedelta(seconds=config.training.timeout_seconds))
            )
            built = build_model(
                config,
                data,
                self.ranks,
                trained=folder.trained_on(config, data),
                for_training=False,
            )
            self.checkpoint = Checkpoints(folder.checkpoints, self.ranks).load_best(built)
            self.model = built.model.eval()
            self.columns = built.columns
            weight = config.evaluation.diversify
            device = self.ranks.device
            diversifier = Diversifier.of(data, weight, device) if weight else None
            self.finder = Finder(self.model, built.index, config.evaluation, device, diversifier)
            self.depths = built.depths
            self.heads = [path.name for path in built.model.tree.paths]
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
            history: original item ids, oldest first; an encoder of times or events does without them.
            user: original id of a user, instead of a history.
            k: how many items; fewer come back only where fewer may be recommended.
            allow: original ids of the only items that may be recommended.
            deny: original ids of items that must not be.
            only: heads that may answer, by their names ("long-term / Comedy") or groups ("Comedy").
            mute: heads that may not.
            boost: factors above 0 of heads' probabilities: log(x) is added to their scores.
            at_least: shares of the k items that are to be of groups, `{"Comedy": 0.3}`; where a group has fewer, all
                it has, which is logged.

        Raises:
            UserError: an unknown user, item of the history or head, no item or head left, k out of range.
        """
        if (user is None) == (history is None):
            raise UserError("give either a user or a history")
        known = (
            self.find_user(str(user))
            if history is None
            else History(self.catalogue.history(history))
        )
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
        return self.answer(
            known, k, self.catalogue.allowed(allow, deny), Levers.of(only, mute, boost, at_least)
        )

    def find_user(self, user: str) -> History:
        """The whole history of a user of the data set, with what the encoder asks for of it.

        Raises:
            UserError: there is no such user.
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
        answers = []
        short = torch.zeros(len(levers.at_least), dtype=torch.int64)
        with self._lock:
            if self._open is None:
                raise RuntimeError("this run is closed: load it again")
            has_row_I = self.model.item_rows.has_row_I
            if has_row_I is not None and not all(
                has_row_I[history.items].any() for history in histories
            ):
                raise UserError(
                    "the history: none of its items was seen in training: train on the data of today"
                )
            request = self.request(k, allowed, levers)
            for start in range(0, len(histories), batch):
                found, short_BJ = answer(self.finder, histories[start : start + batch], request)
                answers += found
                short += short_BJ.sum(0)
        for name, count in zip(levers.at_least, short.tolist(), strict=True):
            if count:
                lists = (
                    "the list" if len(histories) == 1 else f"{count:,} of {len(histories):,} lists"
                )
                log.warning(
                    "at-least: fewer items of '%s' in %s, as no more may be recommended",
                    name,
                    lists,
                )
        return [[self._in_words(found) for found in best] for best in answers]

    def request(self, k: int, allowed: np.ndarray | None, levers: Levers) -> Request:
        """What is asked for of this rank. Every rank must call it alike."""
        index = self.finder.index
        if allowed is not None:
            index = index.restricted(torch.from_numpy(allowed)[index.item_C.cpu()])
        return Request.of(self.finder, self.ranks, k, index, levers)

    def unseen(self, items: np.ndarray) -> int:
        """How many of some interactions, by row id, are with items that have no row of their own."""
        own_row_I = self.model.item_rows.own_row_I
        return 0 if own_row_I is None else int((~own_row_I[items]).sum())

    @property
    def never_found(self) -> int:
        """Items of the catalogue that cannot be recommended, as the model cannot tell them apart."""
        recommendable_I = self.model.item_rows.recommendable_I
        return 0 if recommendable_I is None else int((~recommendable_I).sum())

    def _in_words(self, found: Answer) -> Recommendation:
        return Recommendation(
            item_id=self.catalogue.item_id(found.row),
            title=self.catalogue.title(found.row),
            score=found.score,
            head=self.heads[found.path],
            head_scores={self.heads[path]: score for path, score in found.scores.items()},
        )

    def close(self) -> None:
        """Gives the model's memory back and leaves the process group; a second call does nothing."""
        self._leave(None, None, None)

    def _leave(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._open is not None:
                opened = self._open
                self._open = None
                del self.model, self.finder
                opened.__exit__(kind, error, trace)  # which names ranks that are lost

    def __enter__(self) -> "LoadedRun":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(kind, error, trace)


def check_k(k: int, data: PreparedData) -> None:
    """Raises UserError where the catalogue has no k items."""
    if not 1 <= k <= data.items:
        raise UserError(
            f"k = {k:,} must be from 1 to the {data.items:,} items of data set '{data.manifest.name}'"
        )
