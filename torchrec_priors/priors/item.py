"""Item priors: taxonomy, genre, tag. A target belongs to the groups its item is labelled with; Omega_k = items of k."""

import numpy as np
from torch import Tensor, nn

from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.priors.prior import ItemGroups, Targets


class ItemPrior(nn.Module):
    """Labels on items, several allowed."""

    restricts_items = True

    def __init__(self, name: str, groups: list[str], item: np.ndarray, group: np.ndarray, items: int) -> None:
        """
        Args:
            groups: names, by group number.
            item, group: pairs of a row id and a group number; an item may stand several times, and one that stands
                nowhere is recommended by no head.
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
        self.name, self.groups = name, groups
        self.labels = ItemGroups.from_pairs(item, group, items)

    def members(self, targets: Targets) -> tuple[Tensor, Tensor]:
        return self.labels.expand(targets.item_M)

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        starts = self.labels.starts[first_row : last_row + 1].cpu().numpy()
        row = np.repeat(np.arange(first_row, last_row), np.diff(starts))
        return row, self.labels.groups[starts[0] : starts[-1]].cpu().numpy()


def load(argument: str, data: PreparedData, horizon: int) -> ItemPrior:
    """`argument`: name of an item prior of the data set."""
    names = [prior.name for prior in data.manifest.priors if prior.kind == "item"]
    if argument not in names:
        raise UserError(f"priors.tree: data set has no item prior '{argument}': {nearest(argument, names)}")
    item, group = data.prior_pairs(argument, "item")
    return ItemPrior(argument, data.manifest.prior(argument).groups, item, group, data.items)
