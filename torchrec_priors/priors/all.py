"""Control (paper A.1.3): every item is in every group; the number of groups is that of another
prior.
"""

import numpy as np

from torchrec_priors.common.limits import check_most, whole_number
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.random import how_many, labels_like

_MOST_GROUPS = 1 << 10  # every target is a positive of each
_MOST_PAIRS = 1 << 27  # of an item and a group, 16 bytes each


def load(argument: str, data: PreparedData, horizon: int) -> ItemPrior:
    """`argument`: the number of groups, or a prior with that number of groups."""
    groups = how_many("all", argument, data)
    check_most(f"priors.tree: groups of 'all:{argument}'", groups, _MOST_GROUPS)
    if data.items * groups > _MOST_PAIRS:
        raise UserError(
            f"priors.tree: 'all:{argument}' puts each of {data.items:,} items into {groups:,}"
            f" groups, which is more than {_MOST_PAIRS:,} pairs: give fewer groups, as"
            f" 'all:{max(1, _MOST_PAIRS // data.items)}'"
        )

    # A group that has no members in the other prior has none here.
    with_members = np.arange(groups)
    if whole_number(argument) is None:
        with_members = np.unique(labels_like(argument, data)[1])

    names = [f"all {number + 1}" for number in range(groups)]
    rows = np.repeat(np.arange(data.items), len(with_members))
    group = np.tile(with_members, data.items)
    return ItemPrior(f"all:{argument}", names, rows, group, data.items)
