"""Control (paper A.1.3): every item in every group, as many groups as a prior of people has members for."""

import numpy as np

from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.random import how_many, labels_like


def load(argument: str, data: PreparedData, horizon: int) -> ItemPrior:
    """`argument`: how many groups, or the prior that has as many."""
    groups = how_many("all", argument, data)
    names = [f"all {number + 1}" for number in range(groups)]
    held = np.arange(groups) if argument.isdigit() else np.unique(labels_like(argument, data)[1])
    rows = np.repeat(np.arange(data.items), len(held))
    return ItemPrior(f"all:{argument}", names, rows, np.tile(held, data.items), data.items)
