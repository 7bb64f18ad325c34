"""Full-catalogue evaluation of a model on a split, on any number of ranks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.data.batch import times_and_events
from torchrec_priors.data.histories import Histories, Split, history_batches
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.data.windows import Share
from torchrec_priors.embedding.table import FEATURE
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.errors import UserError
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import DEPTH
from torchrec_priors.metrics.ranking import RankingMetrics
from torchrec_priors.model import Recommender
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search import Exclusions, Found, search


@dataclass
class EvaluationConfig:
    """How a model is evaluated.

    Attributes:
        filter_seen: whether items of the user's history are left out of the recommendations.
        batch: users scored together.
    """

    filter_seen: bool = True
    batch: int = 64

    def check(self) -> None:
        if self.batch < 1:
            raise UserError(f"evaluation.batch = {self.batch} must be at least 1")


def to_ids(items: np.ndarray, lengths: np.ndarray, device: torch.device) -> KeyedJaggedTensor:
    """Histories as the table's input; an empty batch becomes one history of item 0, so that its rank takes part."""
    if len(lengths) == 0:
        items, lengths = np.zeros(1, np.int64), np.ones(1, np.int64)
    ids = KeyedJaggedTensor(keys=[FEATURE], values=torch.from_numpy(items), lengths=torch.from_numpy(lengths))
    return ids.to(device)


@torch.no_grad()
def histories_of(model: Recommender, users: Histories, device: torch.device) -> Jagged:
    """This rank's users as the encoder takes them, one of item 0 where there are none. Every rank must call it."""
    ids = to_ids(users.items, users.lengths, device)
    beside = times_and_events(users.columns if len(users) else {})
    time_N, event_N = (None if values is None else values.to(device) for values in beside)
    return Jagged(model.tokens(ids), ids.offsets(), time_N, event_N)


@torch.no_grad()
def queries_of(model: Recommender, users: Histories, device: torch.device) -> torch.Tensor:
    """[B, K, d]: every path's query of each of this rank's users. Every rank must call it."""
    return model.queries(histories_of(model, users, device))[: len(users)]


@torch.no_grad()
def find(
    model: Recommender, index: GroupIndex, users: Histories, query_BKd: torch.Tensor, *, filter_seen: bool, k: int
) -> Found:
    """Top-k of this rank's users by their queries. Every rank must call it."""
    excluded = Exclusions.of(users.seen, users.seen_lengths) if filter_seen else None
    return search(index, model.score, query_BKd, excluded, k)


def evaluate(
    model: Recommender,
    index: GroupIndex,
    data: PreparedData,
    split: Split,
    config: EvaluationConfig,
    *,
    share: Share,
    device: torch.device,
    columns: Sequence[str] = (),
    total: Callable[[torch.Tensor], torch.Tensor],
    on_batch: Callable[[Histories, Found], None] = lambda _users, _found: None,
    progress: Callable[[Iterable[Histories], int], Iterable[Histories]] = lambda batches, _count: batches,
) -> dict[str, Any]:
    """Metrics of a split, the same on every rank.

    Args:
        columns: what the encoder asks for of the sequences, besides items.
        total: a tensor's sum over ranks.
        on_batch: called on every rank with its users and what was found for them, the same number of times on all.
        progress: wraps the batches to show progress; it is told how many there are.
    """
    metrics = RankingMetrics(data.items, *_catalogue(data))
    batches = history_batches(
        data, split, context=model.config.context, batch=config.batch, share=share, columns=columns
    )
    was_training = model.training
    model.eval()
    rounds = -(-data.users // (config.batch * share.world))
    for users in progress(batches, rounds):
        query_BKd = queries_of(model, users, device)
        found = find(model, index, users, query_BKd, filter_seen=config.filter_seen, k=DEPTH)
        rows = found.row_Bk.cpu().numpy()
        metrics.update(rows, users.targets, users.target_lengths, users.seen, users.seen_lengths)
        on_batch(users, found)
    model.train(was_training)
    metrics.sum_over(total)
    return metrics.results()


def _catalogue(data: PreparedData) -> tuple[np.ndarray, Categories, list[Categories]]:
    frequency = data.catalogue(["frequency"])["frequency"].to_numpy()
    priors = [Categories.of_prior(data, prior.name) for prior in data.manifest.priors if prior.kind == "item"]
    category = next(prior for prior in priors if prior.name == data.manifest.category_prior)
    return frequency, category, [prior for prior in priors if prior is not category]
