"""A trained run, loaded to answer: what the `recommend` app and Python programs call.

from torchrec_priors import load_run

with load_run("runs/ml-100k") as run:
    for found in run.recommend(history=[50, 172, 181], k=5):
        print(found.title, found.head)
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType

import numpy as np
import torch

from torchrec_priors.config import RunConfig
from torchrec_priors.data.prepared import History, PreparedData
from torchrec_priors.errors import UserError
from torchrec_priors.noise import hush
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.serving.answer import Answer, answer
from torchrec_priors.serving.catalogue import Catalogue, ItemId
from torchrec_priors.training.build import build_model
from torchrec_priors.training.checkpoint import Checkpoints
from torchrec_priors.training.process import join
from torchrec_priors.training.run_folder import RunFolder


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: original id.
        title: for people.
        score: what the items are ordered by.
        head: name of the prior path that gave the score, "short-term / Comedy".
        head_scores: the score of every path that may retrieve the item for this user, by name.
    """

    item_id: ItemId
    title: str
    score: float
    head: str
    head_scores: dict[str, float]


def load_run(path: Path | str, data: Path | str | None = None) -> "LoadedRun":
    """Loads the best checkpoint of a trained run; close it, or use it in a `with` block.

    Needs no launcher; under one, every rank must load and call alike, and each holds its share of the table.

    Args:
        path: folder of the run.
        data: prepared data set, where it has moved since training.

    Raises:
        UserError: no run there, no checkpoint yet, or other data than it was trained on.
    """
    folder = RunFolder(Path(path))
    config, prepared = folder.open(None if data is None else Path(data))
    return LoadedRun(folder, config, prepared, Catalogue.of(prepared))


class LoadedRun:
    """A model in memory, ready to answer any number of times, from any thread (one call at a time)."""

    def __init__(self, folder: RunFolder, config: RunConfig, data: PreparedData, catalogue: Catalogue) -> None:
        self.config, self.data, self.catalogue = config, data, catalogue
        self._lock = Lock()
        hush()
        with ExitStack() as opening:
            self.ranks = opening.enter_context(join())
            built = build_model(config, data, self.ranks, counted=folder.paths, for_training=False)
            self.checkpoint = Checkpoints(folder.checkpoints, self.ranks).load_best(built)
            self.model, self.columns = built.model.eval(), built.columns
            self.finder = Finder(self.model, built.index, config.evaluation, self.ranks.device)
            self.heads = [path.name for path in built.model.tree.paths]
            self._open: ExitStack | None = opening.pop_all()

    def recommend(
        self,
        history: Sequence[ItemId] | None = None,
        *,
        user: ItemId | None = None,
        k: int = 10,
        allow: Iterable[ItemId] | None = None,
        deny: Iterable[ItemId] | None = None,
    ) -> list[Recommendation]:
        """Top-k for a history, or for the whole history of a user of the data set.

        Args:
            history: original item ids, oldest first; an encoder of times or events does without them.
            user: original id of a user, instead of a history.
            k: how many items; fewer come back only where fewer may be recommended.
            allow: original ids of the only items that may be recommended.
            deny: original ids of items that must not be.

        Raises:
            UserError: an unknown user or item of the history, no item left, k out of range.
        """
        if (user is None) == (history is None):
            raise UserError("give either a user or a history")
        known = self.find_user(str(user)) if history is None else History(self.catalogue.history(history))
        return self.answer([known], k, self.catalogue.allowed(allow, deny))[0]

    def recommend_many(
        self,
        histories: Iterable[Sequence[ItemId]],
        *,
        k: int = 10,
        allow: Iterable[ItemId] | None = None,
        deny: Iterable[ItemId] | None = None,
    ) -> list[list[Recommendation]]:
        """Top-k for each of several histories, in their order; arguments as for `recommend`."""
        known = [History(self.catalogue.history(history)) for history in histories]
        return self.answer(known, k, self.catalogue.allowed(allow, deny))

    def find_user(self, user: str) -> History:
        """The whole history of a user of the data set, with what the encoder asks for of it.

        Raises:
            UserError: there is no such user.
        """
        return self.data.find_user(user, self.columns)

    def answer(self, histories: list[History], k: int, allowed: np.ndarray | None = None) -> list[list[Recommendation]]:
        """Top-k for histories; `allowed` as `Catalogue.allowed` gives it."""
        check_k(k, self.data)
        batch, answers = self.config.evaluation.batch, []
        with self._lock:
            if self._open is None:
                raise RuntimeError("this run is closed: load it again")
            index = self.index(allowed)
            for start in range(0, len(histories), batch):
                answers += answer(self.finder, histories[start : start + batch], k, index)
        return [[self._in_words(found) for found in best] for best in answers]

    def index(self, allowed: np.ndarray | None) -> GroupIndex:
        """What may be searched on this rank."""
        index = self.finder.index
        if allowed is None:
            return index
        return index.restricted(torch.from_numpy(allowed[index.shard.first : index.shard.last]))

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
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None
                del self.model, self.finder

    def __enter__(self) -> "LoadedRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_k(k: int, data: PreparedData) -> None:
    """Raises UserError where the catalogue has no k items."""
    if not 1 <= k <= data.items:
        raise UserError(f"k = {k:,} must be from 1 to the {data.items:,} items of data set '{data.manifest.name}'")
