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
from torchrec_priors.model import Recommender
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.share import Share
from torchrec_priors.retrieval.event_given import EventGiven, levels_of_events
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search_types import Found
from torchrec_priors.settings.evaluation import RetrievalConfig

OnBatch = Callable[[Histories, Found, Found | None], None]
Progress = Callable[[Iterable[Histories], int], Iterable[Histories]]


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
    on_batch: OnBatch = lambda _users, _found, _given: None,
    progress: Progress = lambda batches, _count: batches,
) -> dict[str, Any]:
    """All metrics of a split (see `RankingMetrics`), the same on every rank.

    Args:
        columns: what the encoder reads of the sequences, besides items.
        chosen: bool by user, in file order, who is evaluated; None for everyone.
        by_group: names of the priors whose single groups are reported, besides the category prior;
            None for all.
        reach: counts which targets could be found, for this model and these settings; built here if
            None.
        total: a tensor's sum over ranks.
        on_batch: called on every rank with its users, what was found for them and, if the tree has
            a level of events, what was found by the heads of their targets' events; the same number
            of times on all ranks.
        progress: wraps the batches to show progress; it gets their number.

    Raises:
        UserError: no user has targets in the split.
    """
    # Counted before anything is searched: without targets every mean would be over nobody.
    evaluated_U = users_of(data, split)
    if chosen is not None:
        evaluated_U = evaluated_U & chosen
    evaluated = int(evaluated_U.sum())
    if not evaluated:
        raise UserError(
            f"data set '{data.manifest.name}': no user has {split} targets ({data.manifest.split})"
        )

    # Users get a second list, by the heads of their targets' events, if a level is of events.
    event_given = bool(levels_of_events(model.tree))
    category = Categories.of_prior(data, data.manifest.category_prior)
    metrics = RankingMetrics(
        data.items,
        data.catalogue(["frequency"])["frequency"].to_numpy(),
        category,
        _other_priors(data, by_group),
        event_given=event_given,
        reach=reach or Reach.of(model, config),
        own_row_I=model.item_rows.own_row_I,
    )

    # Training evaluates between its steps: the mode that the model was in comes back below.
    was_training = model.training
    model.eval()
    finder = Finder.of(model, index, config, data, device)
    finder_given = None
    if event_given:
        finder_given = EventGiven(finder, len(data.manifest.events))

    batches = history_batches(
        data,
        split,
        context=finder.context,
        batch=config.batch,
        share=share,
        columns=columns,
        target_columns=metrics.needs,
        chosen=chosen,
    )
    rounds = -(-evaluated // (config.batch * share.world))
    for users in progress(batches, rounds):
        # Every rank has the same number of rounds, the last ones perhaps without users: all take
        # part in every search.
        queries = finder.queries(users, finder.ask(users))
        found = finder.find(users, queries, DEPTH)
        given = None
        row_given_BR = None
        if finder_given is not None:
            given = finder_given.find(users, queries, DEPTH)
            row_given_BR = given.row_Bk.cpu().numpy()

        metrics.update(users, found.row_Bk.cpu().numpy(), row_given_BR)
        on_batch(users, found, given)

    model.train(was_training)
    metrics.sum_over(total)
    return metrics.results()


def _other_priors(data: PreparedData, by_group: Sequence[str] | None) -> list[Categories]:
    """The priors whose groups are reported besides the category prior's."""
    if by_group is None:
        by_group = [prior.name for prior in data.manifest.priors]
    return [
        Categories.of_prior(data, name) for name in by_group if name != data.manifest.category_prior
    ]
