"""Scores of queries and items: the dot product of Eq. 1, or the cosine times a learned scale."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.settings.model import ScoreKind

_FIRST_SCALE = 20.0
_LARGEST_SCALE = 100.0


class Score(nn.Module):
    """Turns queries and item vectors into factors, whose dot products are the scores."""

    def __init__(self, kind: ScoreKind) -> None:
        super().__init__()
        self.kind = kind
        if kind == "cosine":
            self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))

    @torch.no_grad()
    def start_at(self, scale: float) -> None:
        """Sets the first value of the scale of cosines."""
        if self.kind == "cosine":
            self.log_scale.fill_(math.log(scale))

    def queries(self, query_Pd: Tensor) -> Tensor:
        """Returns the factors of queries; for cosines, they include the scale."""
        if self.kind == "dot":
            return query_Pd
        return F.normalize(query_Pd, dim=-1) * self.scale()

    def scale(self) -> Tensor:
        """Returns the learned scale of cosines."""
        return self.log_scale.exp().clamp(max=_LARGEST_SCALE)

    def items(self, item_Md: Tensor) -> Tensor:
        """Returns the factors of item vectors."""
        if self.kind == "dot":
            return item_Md
        return F.normalize(item_Md, dim=-1)
