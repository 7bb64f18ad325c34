"""Temporal priors divide the horizon into equal segments, which are the groups.

A target belongs to the segment that contains its offset.
"""

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_priors.common.limits import whole_number
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.prior import Targets


class TemporalPrior(nn.Module):
    """A prior whose groups are segments of the horizon. Each may retrieve all items (Omega_k).

    Attributes:
        length: the number of offsets in a segment.
        segment_t: the index of the segment that contains offset t + 1.
    """

    name = "temporal"
    kind = "temporal"
    restricts_items = False
    segment_t: Tensor

    def __init__(self, segments: int, horizon: int) -> None:
        super().__init__()
        self.length = horizon // segments
        self.groups = ["short-term", "long-term"]
        if segments != 2:
            self.groups = [self._name(number) for number in range(segments)]

        segment_t = torch.arange(horizon) // self.length
        self.register_buffer("segment_t", segment_t, persistent=False)

    def _name(self, number: int) -> str:
        first = number * self.length + 1
        last = (number + 1) * self.length
        return f"next {first}" if first == last else f"next {first}-{last}"

    def members(self, targets: Targets) -> tuple[Tensor, Tensor]:
        every = torch.arange(len(targets.offset_M), device=targets.offset_M.device)
        return every, self.segment_t[targets.offset_M - 1]

    def padded_members(self, targets: Targets) -> Tensor:
        return self.segment_t[targets.offset_M - 1][:, None]

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("a temporal prior restricts no items")


def load(argument: str, data: PreparedData, horizon: int) -> TemporalPrior:
    """Makes a temporal prior; `argument` is the number of segments, which divides the horizon."""
    segments = whole_number(argument)
    if not segments:
        raise UserError(
            f"priors.tree: 'temporal:{argument}' needs a number of segments, as in 'temporal:4'"
        )
    if horizon % segments:
        raise UserError(
            f"priors.tree: 'temporal:{argument}' does not divide model.horizon = {horizon}"
            " into equal segments"
        )
    return TemporalPrior(segments, horizon)
