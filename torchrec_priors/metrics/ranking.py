"""All metrics of ranked lists (sections 4.2 and 4.4.1 of the paper); each has its own file.

Shapes: B users, R length of the lists.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.accuracy import Accuracy
from torchrec_priors.metrics.age import AgeOfItems
from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.cold import ColdItems
from torchrec_priors.metrics.event_given import EventGivenAccuracy
from torchrec_priors.metrics.exposure import Exposure
from torchrec_priors.metrics.groups import GroupMetrics
from torchrec_priors.metrics.metric import Metric
from torchrec_priors.metrics.per_user import Ranked
from torchrec_priors.metrics.reach import Reach
from torchrec_priors.metrics.unseen import UnseenCounts


class RankingMetrics:
    """All metrics of an evaluation.

    `update` is called for each batch, then `sum_over` once, and finally `results`.
    """

    def __init__(
        self,
        items: int,
        frequency: np.ndarray,
        category: Categories,
        others: list[Categories],
        *,
        event_given: bool = False,
        reach: Reach | None = None,
        own_row_I: np.ndarray | None = None,
        age_I: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            items: the number of items in the catalogue.
            frequency: the number of training interactions of each item, for novelty.
            category: the category prior, for entropy and for new interests. Its groups are
                reported.
            others: further priors whose groups are reported.
            event_given: whether users have a second list, found with only the heads for the events
                of their targets.
            reach: the metric that counts the targets that can be found; None to leave it out.
            own_row_I: bool, whether an item has its own row in the embedding table; None if all
                items have one.
            age_I: the class of each item by its age (`ages_of_items`); None to leave ages out.
        """
        self.items = items
        self.event_given = event_given
        self.reach = reach

        # A new metric is added to this list. Experiments and reports rely on the order, which is
        # that of the keys in metrics.json.
        self.metrics: list[Metric] = [Accuracy(category)]
        if event_given:
            self.metrics.append(EventGivenAccuracy(category))
        self.metrics.append(Exposure(items, frequency))
        if reach is not None:
            self.metrics.append(reach)
        for prior in (category, *others):
            self.metrics.append(GroupMetrics(prior, counts_found=reach is not None))
        if own_row_I is not None:
            self.metrics.append(UnseenCounts(own_row_I))
        cold_I = frequency == 0
        if cold_I.any():
            self.metrics.append(ColdItems(cold_I))
        if age_I is not None:
            self.metrics.append(AgeOfItems(age_I))

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns of the sequences that `update` reads for the targets."""
        return tuple(dict.fromkeys(need for metric in self.metrics for need in metric.needs))

    def update(
        self, users: Histories, row_BR: np.ndarray, row_given_BR: np.ndarray | None = None
    ) -> None:
        """Adds a batch of users to all metrics.

        Args:
            users: the users, with the target columns that `needs` names.
            row_BR: row ids of the recommended items, best first, in at least `DEPTH` columns; -1
                after the end of a shorter list.
            row_given_BR: the same for the second list, found with only the heads for the events of
                the users' targets.
        """
        assert self.event_given == (row_given_BR is not None)
        # In the last rounds some ranks have no users.
        if not len(users):
            return

        ranked = self._ranked(users, row_BR)
        given = None
        if row_given_BR is not None:
            given = self._ranked(users, row_given_BR)

        # Both `Reach` and `GroupMetrics` use it, so it is computed once.
        reachable = None
        if self.reach is not None:
            reachable = self.reach.reachable(users, ranked)
        batch = RankedBatch(users, ranked, given, reachable)

        for metric in self.metrics:
            metric.update(batch)

    def sum_over(self, total: Callable[[Tensor], Tensor]) -> None:
        """Adds up all metrics over ranks, which must have the same metrics.

        Args:
            total: sums a tensor over ranks.
        """
        for metric in self.metrics:
            metric.sum_over(total)

    def results(self) -> dict[str, Any]:
        """Returns the names and values of all metrics, including `users`, the number of users."""
        out: dict[str, Any] = {}
        for metric in self.metrics:
            out |= metric.results()
        return out

    def _ranked(self, users: Histories, row_BR: np.ndarray) -> Ranked:
        return Ranked.of(row_BR, users.targets, users.target_lengths, self.items)
