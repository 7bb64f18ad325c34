"""Full-catalogue evaluation of a model on a split, on any number of ranks."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from torchrec_priors.data.histories import Histories, Split, history_batches, users_of
from torchrec_priors.errors import UserError
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import DEPTH
from torchrec_priors.metrics.ranking import RankingMetrics
from torchrec_priors.metrics.reach import Reach
from torchrec_priors.metrics.unseen import UnseenCounts
from torchrec_priors.model import Recommender
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.share import Share
from torchrec_priors.retrieval.diversify import Diversifier
from torchrec_priors.retrieval.event_given import EventGiven, levels_of_events
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search import Found
from torchrec_priors.settings.evaluation import RetrievalConfig


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
    chosen: np.ndarray | None = None,
    by_group: Sequence[str] | None = None,
    reach: Reach | None = None,
    total: Callable[[torch.Tensor], torch.Tensor],
    on_batch: Callable[[Histories, Found, Found | None], None] = lambda _users,
    _found,
    _given: None,
    progress: Callable[[Iterable[Histories], int], Iterable[Histories]] = lambda batches,
    _count: batches,
) -> dict[str, Any]:
    """Metrics of a split, the same on every rank: how many targets could be found at all (`Reach`), too, and where
    items have no row of their own, how many (`UnseenCounts`).

    Args:
        columns: what the encoder asks for of the sequences, besides items.
        chosen: bool by user, in file order, who is evaluated; None for everyone.
        by_group: names of the priors to report single groups of, besides the category prior; None for all.
        reach: counts which targets could be found, of this model and these settings; made where it is None.
        total: a tensor's sum over ranks.
        on_batch: called on every rank with its users, what was found for them and, where the tree has a level of
            events, what was found by the heads of their targets' events; the same number of times on all.
        progress: wraps the batches to show progress; it is told how many there are.

    Raises:
        UserError: no user has targets in the split.
    """
    evaluated = int((users_of(data, split) & (True if chosen is None else chosen)).sum())
    if not evaluated:
        raise UserError(
            f"data set '{data.manifest.name}': no user has {split} targets ({data.manifest.split})"
        )

    event_given = bool(levels_of_events(model.tree))
    reach = reach or Reach.of(model, config)
    metrics = RankingMetrics(
        data.items, *_catalogue(data, by_group), event_given=event_given, reach=reach
    )

    was_training = model.training
    model.eval()
    diversifier = Diversifier.of(data, config.diversify, device) if config.diversify else None
    finder = Finder(model, index, config, device, diversifier)
    batches = history_batches(
        data,
        split,
        context=finder.context,
        batch=config.batch,
        share=share,
        columns=columns,
        target_columns=("events",) if event_given else metrics.needs,
        chosen=chosen,
    )

    told = EventGiven(finder, len(data.manifest.events)) if event_given else None
    own_row_I = model.item_rows.own_row_I
    unseen = None if own_row_I is None else UnseenCounts(own_row_I)

    rounds = -(-evaluated // (config.batch * share.world))
    for users in progress(batches, rounds):
        queries = finder.queries(users, finder.ask(users))
        found = finder.find(users, queries, DEPTH)
        given = None if told is None else told.find(users, queries, DEPTH)
        metrics.update(
            users, found.row_Bk.cpu().numpy(), None if given is None else given.row_Bk.cpu().numpy()
        )
        if unseen is not None:
            unseen.update(users)
        on_batch(users, found, given)

    model.train(was_training)
    metrics.sum_over(total)
    if unseen is None:
        return metrics.results()
    unseen.sum_over(total)
    return metrics.results() | unseen.results()


def _catalogue(
    data: PreparedData, by_group: Sequence[str] | None
) -> tuple[np.ndarray, Categories, list[Categories]]:
    frequency = data.catalogue(["frequency"])["frequency"].to_numpy()
    names = [prior.name for prior in data.manifest.priors] if by_group is None else by_group
    others = [
        Categories.of_prior(data, name) for name in names if name != data.manifest.category_prior
    ]
    return frequency, Categories.of_prior(data, data.manifest.category_prior), others
