"""Evaluates a model on a split against the whole catalogue, on any number of ranks."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from torchrec_priors.data.histories import Histories, Split, history_batches, users_of
from torchrec_priors.errors import UserError
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import DEPTH
from torchrec_priors.metrics.ranking import RankingMetrics
from torchrec_priors.metrics.reach import Reach
from torchrec_priors.model.recommender import Recommender
from torchrec_priors.ops.work_queue import can_divide, results_in_order
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.share import Share
from torchrec_priors.retrieval.event_given import EventGiven, levels_of_events
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search_types import Found
from torchrec_priors.settings.evaluation import RetrievalConfig

OnBatch = Callable[[Histories, Found, Found | None], None]
Progress = Callable[[Iterable[Histories], int], Iterable[Histories]]

_FEW = 1 << 20  # numbers of a batch's histories: a thread needs some times 4 MB for them


class Lists(Protocol):
    """The recommendations that are evaluated.

    Attributes:
        context: the number of latest items of each history that `find` reads.
        event_given: whether `find` also returns lists for the events of the users' targets.
        threads: the number of threads that may call `find` at the same time. With more than 1, each
            call should use one thread.
    """

    context: int
    event_given: bool
    threads: int

    def find(self, users: Histories) -> tuple[Found, Found | None]:
        """Returns the best `DEPTH` items of each user, without and with given events.

        All ranks call it the same number of times. In the last calls a rank may have no users.
        """
        ...


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
    age_I: np.ndarray | None = None,
    reach: Reach | None = None,
    total: Callable[[torch.Tensor], torch.Tensor],
    on_batch: OnBatch = lambda _users, _found, _given: None,
    progress: Progress = lambda batches, _count: batches,
) -> dict[str, Any]:
    """Computes all metrics of a split (see `RankingMetrics`). Every rank must call it.

    Args:
        model: the model.
        index: the items on this rank that may be recommended.
        data: the prepared data set.
        split: the split with the targets.
        config: the settings of the search.
        share: this rank's part of the users.
        device: the device of the model.
        columns: the columns of the sequences that the encoder reads in addition to items.
        chosen: bool for each user in file order, whether the user is evaluated; None for all users.
        by_group: the names of priors for which metrics of individual groups are reported, in
            addition to the category prior; None for all priors.
        age_I: the class of each item by its age (`ages_of_items`); None to leave ages out.
        reach: the metric that counts which targets can be found with this model and these settings;
            it is made here if None.
        total: sums a tensor over ranks.
        on_batch: called for every batch with the users, the items found for them and, if the tree
            has a level of events, the items found by the heads for the events of their targets. All
            ranks call it the same number of times.
        progress: wraps the batches to show progress; its second argument is their number.

    Returns:
        The names and values of all metrics, the same on every rank.

    Raises:
        UserError: no user has targets in the split.
    """
    # Training calls this between its steps, so the model's mode is restored below.
    was_training = model.training
    model.eval()
    result = evaluate_lists(
        _ListsOfModel(model, index, data, config, device, is_alone=share.world == 1),
        data,
        split,
        batch=config.batch,
        share=share,
        columns=columns,
        chosen=chosen,
        by_group=by_group,
        age_I=age_I,
        reach=reach or Reach.of(model, config),
        own_row_I=model.item_rows.own_row_I,
        total=total,
        on_batch=on_batch,
        progress=progress,
    )
    model.train(was_training)
    return result


def evaluate_lists(
    lists: Lists,
    data: PreparedData,
    split: Split,
    *,
    batch: int,
    share: Share,
    reach: Reach,
    total: Callable[[torch.Tensor], torch.Tensor],
    columns: Sequence[str] = (),
    chosen: np.ndarray | None = None,
    by_group: Sequence[str] | None = None,
    age_I: np.ndarray | None = None,
    own_row_I: np.ndarray | None = None,
    on_batch: OnBatch = lambda _users, _found, _given: None,
    progress: Progress = lambda batches, _count: batches,
) -> dict[str, Any]:
    """Computes all metrics of a split for any kind of recommendations. Every rank must call it.

    Args:
        lists: finds the items for a batch of users.
        batch: the number of users in a batch.
        own_row_I: bool, whether an item has its own row in an embedding table; None if all items
            have one, or if there is no table.

    The other arguments, the result and the errors are those of `evaluate`.
    """
    # This is checked before the search: without targets there is no user to average over.
    evaluated_U = users_of(data, split)
    if chosen is not None:
        evaluated_U = evaluated_U & chosen
    evaluated = int(evaluated_U.sum())
    if not evaluated:
        raise UserError(
            f"data set '{data.manifest.name}': no user has {split} targets ({data.manifest.split})"
        )

    category = Categories.of_prior(data, data.manifest.category_prior)
    metrics = RankingMetrics(
        data.items,
        data.catalogue(["frequency"])["frequency"].to_numpy(),
        category,
        _other_priors(data, by_group),
        event_given=lists.event_given,
        reach=reach,
        own_row_I=own_row_I,
        age_I=age_I,
    )
    batches = history_batches(
        data,
        split,
        context=lists.context,
        batch=batch,
        share=share,
        columns=columns,
        target_columns=metrics.needs,
        chosen=chosen,
    )
    rounds = -(-evaluated // (batch * share.world))
    threads = min(lists.threads, rounds)
    for users, (found, given) in results_in_order(progress(batches, rounds), lists.find, threads):
        row_given_BR = None
        if given is not None:
            row_given_BR = given.row_Bk.cpu().numpy()

        metrics.update(users, found.row_Bk.cpu().numpy(), row_given_BR)
        on_batch(users, found, given)

    metrics.sum_over(total)
    return metrics.results()


class _ListsOfModel:
    """The lists that a neural model's heads find; see `Lists`."""

    def __init__(
        self,
        model: Recommender,
        index: GroupIndex,
        data: PreparedData,
        config: RetrievalConfig,
        device: torch.device,
        *,
        is_alone: bool,
    ) -> None:
        """
        Args:
            model, index, data, config, device: as for `evaluate`.
            is_alone: whether there is a single rank.
        """
        self._finder = Finder.of(model, index, config, data, device)
        self.context = self._finder.context
        # If the tree has a level of events, users get a second list, for which only the heads for
        # the events of their targets are used.
        self.event_given = bool(levels_of_events(model.tree))
        self._finder_given = None
        # If a batch has little to compute, its operations are too short to be divided among
        # threads, so batches are. Ranks must make their collectives in one order.
        numbers = config.batch * model.config.context * model.config.dim
        self.threads = 1
        if numbers <= _FEW and can_divide(device) and is_alone:
            self.threads = torch.get_num_threads()
        if self.event_given:
            self._finder_given = EventGiven(self._finder, len(data.manifest.events))

    def find(self, users: Histories) -> tuple[Found, Found | None]:
        # A search is a collective, so every rank has the same number of rounds.
        users = self._finder.contexts(users)
        queries = self._finder.queries(users, self._finder.ask(users))
        found = self._finder.find(users, queries, DEPTH)
        given = None
        if self._finder_given is not None:
            given = self._finder_given.find(users, queries, DEPTH)
        return found, given


def _other_priors(data: PreparedData, by_group: Sequence[str] | None) -> list[Categories]:
    """Loads the priors whose individual groups are reported, except the category prior."""
    if by_group is None:
        by_group = [prior.name for prior in data.manifest.priors]
    return [
        Categories.of_prior(data, name) for name in by_group if name != data.manifest.category_prior
    ]
