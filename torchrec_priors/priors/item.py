"""Item priors: taxonomy, genre, tag. A target belongs to the groups its item is labelled with;
Omega_k = items of k.
"""

import numpy as np
from torch import Tensor, nn

from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import prior_of_data
from torchrec_priors.priors.prior import Memberships, Targets


class ItemPrior(nn.Module):
    """Labels on items, several allowed."""

    restricts_items = True

    def __init__(
        self, name: str, groups: list[str], item: np.ndarray, group: np.ndarray, items: int
    ) -> None:
        """
        Args:
            groups: names, by group number.
            item, group: pairs of a row id and a group number; an item may stand several times, and
                one that stands nowhere is recommended by no head.
            items: number of rows.

        Raises:
            UserError: the pairs name a row or a group that there is not.
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
        self.labels = Memberships.from_pairs(item, group, items)

    def members(self, targets: Targets) -> tuple[Tensor, Tensor]:
        return self.labels.expand(targets.item_M)

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        return self.labels.pairs(first_row, last_row)


def load(argument: str, data: PreparedData, horizon: int) -> ItemPrior:
    """`argument`: name of an item prior of the data set."""
    return labels_of(argument, data, "item")


def labels_of(name: str, data: PreparedData, kind: str) -> ItemPrior:
    """A prior of the data set whose file says which items are in which groups."""
    groups = prior_of_data(name, data, kind).groups
    return ItemPrior(name, groups, *data.prior_pairs(name, "item"), data.items)
