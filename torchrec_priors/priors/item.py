"""Item priors, such as a taxonomy, genres or tags: the groups are labels of items.

A target belongs to the groups of its item. A group may retrieve the items that have its label
(Omega_k).
"""

import numpy as np
from torch import Tensor, nn

from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import prior_of_data
from torchrec_priors.priors.prior import Memberships, Targets


class ItemPrior(nn.Module):
    """A prior whose groups are labels of items. An item may have several labels.

    Attributes:
        kind: "item", "graph" for communities, "random" or "all" for a control.
    """

    restricts_items = True

    def __init__(
        self,
        name: str,
        groups: list[str],
        item: np.ndarray,
        group: np.ndarray,
        items: int,
        kind: str = "item",
        words: str = "",
    ) -> None:
        """
        Args:
            groups: names of the groups, in the order of their numbers.
            item, group: pairs of a row id and a group number. An item may be in several pairs. No
                head recommends an item that is in no pair.
            items: the number of items in the data set.
            kind, words: what the groups are, and what one is called in reasons for people (see
                `Prior`).

        Raises:
            UserError: `item` and `group` have different lengths, or a pair has a row id or group
                number that does not exist.
        """
        super().__init__()
        if len(item) != len(group):
            raise UserError(f"prior '{name}': {len(item)} row ids for {len(group)} group numbers")
        for what, values, end in (("row id", item, items), ("group number", group, len(groups))):
            if len(values) and not 0 <= int(values.min()) <= int(values.max()) < end:
                wrong = values[(values < 0) | (values >= end)][0]
                raise UserError(f"prior '{name}': {what} {wrong} is not in [0, {end})")
        self.name = name
        self.groups = groups
        self.kind = kind
        self.words = words
        self.labels = Memberships.from_pairs(item, group, items)

    def members(self, targets: Targets) -> tuple[Tensor, Tensor]:
        return self.labels.expand(targets.item_M)

    def padded_members(self, targets: Targets) -> Tensor:
        return self.labels.padded(targets.item_M)

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        return self.labels.pairs(first_row, last_row)


def load(argument: str, data: PreparedData, horizon: int) -> ItemPrior:
    """Loads an item prior of the data set; `argument` is its name."""
    return labels_of(argument, data, "item")


def labels_of(name: str, data: PreparedData, kind: str) -> ItemPrior:
    """Loads a prior of the data set that labels items.

    Args:
        name: the name of the prior.
        kind: the kind that the manifest must give for it.
    """
    info = prior_of_data(name, data, kind)
    item, group = data.prior_pairs(name, "item")
    return ItemPrior(name, info.groups, item, group, data.items, kind, info.words)
