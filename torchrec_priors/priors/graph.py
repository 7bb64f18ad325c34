"""Graph priors: the groups are communities of items that the same users engage with.

A group may retrieve the items of its community (Omega_k).
"""

from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.item import ItemPrior, labels_of


def load(argument: str, data: PreparedData, horizon: int) -> ItemPrior:
    """Loads a graph prior of the data set; `argument` is its name."""
    return labels_of(argument, data, "graph")
