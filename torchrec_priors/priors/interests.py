"""Interests: one group for each query of a baseline model. Every target belongs to all groups."""

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_priors.common.limits import MOST_GROUPS, check_most, whole_number
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.prior import Targets


class Interests(nn.Module):
    """A prior whose groups are the queries of a baseline model.

    Each group may retrieve all items (Omega_k).
    """

    name = "interests"
    kind = "interests"
    restricts_items = False

    def __init__(self, number: int) -> None:
        super().__init__()
        self.groups = [f"interest {interest + 1}" for interest in range(number)]

    def members(self, targets: Targets) -> tuple[Tensor, Tensor]:
        index = torch.arange(len(targets.item_M), device=targets.item_M.device)
        interest = torch.arange(len(self.groups), device=index.device)
        return index.repeat_interleave(len(interest)), interest.repeat(len(index))

    def padded_members(self, targets: Targets) -> Tensor:
        interest = torch.arange(len(self.groups), device=targets.item_M.device)
        return interest.expand(len(targets.item_M), -1)

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("interests restrict no items")


def load(argument: str, data: PreparedData, horizon: int) -> Interests:
    """Makes the prior of a baseline model; `argument` is the number of its queries."""
    number = whole_number(argument)
    if not number:
        raise UserError(
            f"priors.tree: 'interests:{argument}' needs a number of interests, as in 'interests:4'"
        )
    check_most("priors.tree: interests", number, MOST_GROUPS)
    return Interests(number)
