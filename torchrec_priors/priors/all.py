"""Control (paper A.1.3): every item in every group, as many groups as a prior of people has members for."""

import numpy as np

from torchrec_priors.common.limits import check_most, whole_number
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.random import how_many, labels_like

_MOST_GROUPS = 1 << 10  # every target is a positive of each
_MOST_PAIRS = 1 << 27  # of an item and a group, 16 bytes each


def load(argument: str, data: PreparedData, horizon: int) -> ItemPrior:
    """`argument`: how many groups, or the prior that has as many."""
    groups = how_many("all", argument, data)
    check_most(f"priors.tree: groups of 'all:{argument}'", groups, _MOST_GROUPS)
    if data.items * groups > _MOST_PAIRS:
        raise UserError(
            f"priors.tree: 'all:{argument}' puts each of {data.items:,} items into {groups:,} groups, which is "
            f"more than {_MOST_PAIRS:,} pairs: give fewer groups, as 'all:{max(1, _MOST_PAIRS // data.items)}'"
        )
    names = [f"all {number + 1}" for number in range(groups)]
    held = (
        np.arange(groups)
        if whole_number(argument) is not None
        else np.unique(labels_like(argument, data)[1])
    )
    rows = np.repeat(np.arange(data.items), len(held))
    return ItemPrior(f"all:{argument}", names, rows, np.tile(held, data.items), data.items)
