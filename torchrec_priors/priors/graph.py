"""Graph priors: communities of items that the same users engage with. Omega_k = items of
community k.
"""

from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.item import ItemPrior, labels_of


def load(argument: str, data: PreparedData, horizon: int) -> ItemPrior:
    """`argument`: name of a graph prior of the data set."""
    return labels_of(argument, data, "graph")
