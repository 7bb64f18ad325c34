"""Full-catalogue evaluation of a model on a split, on any number of ranks."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from torchrec_priors.data.histories import Histories, Split, history_batches
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.data.windows import Share
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import DEPTH
from torchrec_priors.metrics.ranking import RankingMetrics
from torchrec_priors.model import Recommender
from torchrec_priors.retrieval.find import Finder, RetrievalConfig
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search import Found


def evaluate(
    model: Recommender,
    index: GroupIndex,
    data: PreparedData,
    split: Split,
    config: RetrievalConfig,
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
    finder = Finder(model, index, config, device)
    rounds = -(-data.users // (config.batch * share.world))
    for users in progress(batches, rounds):
        found = finder.find(users, finder.queries(users, finder.ask(users)), DEPTH)
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
