"""Measures how well groups of items or users divide the log."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import OTHERS
from torchrec_priors.preparation.priors.communities.log_graph import LogGraph
from torchrec_priors.preparation.priors.communities.partition import Partition, data_of_groups
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior
from torchrec_priors.prepared.data_set import PreparedData

# Numbers in the manifest are rounded, because the last digits depend on the library.
_DIGITS = 6


@dataclass(frozen=True)
class Agreement:
    """How much groups of items agree with the categories of a prior.

    Attributes:
        prior: the name of the prior.
        nmi: the normalised mutual information of group and category, in [0, 1].
        by_chance: the same measure after a random permutation of the items' groups.
    """

    prior: str
    nmi: float
    by_chance: float


@dataclass(frozen=True)
class Quality:
    """The quality of the groups of a prior.

    Attributes:
        modularity: the modularity of the groups at resolution 1, with the weights of the prior.
        largest_share: the share of the largest group in the interactions from which the graph was
            made.
        agreement: the agreement with the categories of items. None for groups of users, and if no
            item in a community has a category.
    """

    modularity: float
    largest_share: float
    agreement: Agreement | None

    def recorded(self) -> dict[str, Any]:
        """Returns the quality as the manifest records it."""
        values = {
            "modularity": round(self.modularity, _DIGITS),
            "largest_share": round(self.largest_share, _DIGITS),
        }
        if self.agreement is not None:
            values["category_nmi"] = round(self.agreement.nmi, _DIGITS)
        return values


def measure(
    settings: GraphPrior | UserPrior, data: PreparedData, log: LogGraph, partition: Partition
) -> Quality:
    """Measures the quality of a partition of the items or users of a data set."""
    agreement = None
    if isinstance(settings, GraphPrior):
        agreement = _with_categories(data, log, partition, settings.seed)

    largest_share = float(data_of_groups(log.graph, partition.group).max())
    return Quality(partition.modularity, largest_share, agreement)


def _with_categories(
    data: PreparedData, log: LogGraph, partition: Partition, seed: int
) -> Agreement | None:
    """Compares communities with the category prior.

    Each pair of an item and its category counts once. The items in OTHERS do not count.
    """
    category = data.category_prior()
    item, category_P = data.prior_pairs(category.name, "item")
    group = np.empty(len(partition.group), np.int64)
    group[log.entities["item"].to_numpy()] = partition.group

    grouped = group[item] != OTHERS
    if not grouped.any():
        return None

    members = group != OTHERS
    permuted = group.copy()
    permuted[members] = np.random.default_rng(seed).permutation(group[members])
    return Agreement(
        category.name,
        normalised_mutual_information(group[item[grouped]], category_P[grouped]),
        normalised_mutual_information(permuted[item[grouped]], category_P[grouped]),
    )


def normalised_mutual_information(one: np.ndarray, two: np.ndarray) -> float:
    """Returns 2 I(X; Y) / (H(X) + H(Y)) of two labellings.

    It is 1 if the labellings are the same except for names, and near 0 if they are independent.

    Args:
        one, two: the labels of the same things, int64 [P] each.
    """
    # This is imported here because preparation without communities does not need it.
    import igraph

    return float(igraph.compare_communities(one.tolist(), two.tolist(), method="nmi"))
