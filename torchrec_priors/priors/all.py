"""A control (paper A.1.3): a prior with every item in every group.

It has as many groups as another prior, or a given number of groups.
"""

import numpy as np

from torchrec_priors.common.limits import check_most, whole_number
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.random import how_many, labels_like

_MOST_GROUPS = 1 << 10  # every target is a positive of every group, so training is slow with more
_MOST_PAIRS = 1 << 27  # of an item and a group; a pair takes 16 bytes


def load(argument: str, data: PreparedData, horizon: int) -> ItemPrior:
    """Makes the control; `argument` is a number of groups, or a prior with that many groups."""
    groups = how_many("all", argument, data)
    check_most(f"priors.tree: groups of 'all:{argument}'", groups, _MOST_GROUPS)
    if data.items * groups > _MOST_PAIRS:
        raise UserError(
            f"priors.tree: 'all:{argument}' puts each of {data.items:,} items into {groups:,}"
            f" groups, which is more than {_MOST_PAIRS:,} pairs: give fewer groups, such as"
            f" 'all:{max(1, _MOST_PAIRS // data.items)}'"
        )

    # A group without members in the other prior gets no items here either.
    with_members = np.arange(groups)
    if whole_number(argument) is None:
        with_members = np.unique(labels_like(argument, data)[1])

    names = [f"all {number + 1}" for number in range(groups)]
    rows = np.repeat(np.arange(data.items), len(with_members))
    group = np.tile(with_members, data.items)
    return ItemPrior(f"all:{argument}", names, rows, group, data.items, kind="all")
