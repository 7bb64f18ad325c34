"""How a query and an item vector give a score: Eq. 1's dot product, or a learned scale times
their cosine.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.settings.model import ScoreKind

_FIRST_SCALE = 20.0
_LARGEST_SCALE = 100.0


class Score(nn.Module):
    """Turns queries and item vectors into factors whose dot product is the score."""

    def __init__(self, kind: ScoreKind) -> None:
        super().__init__()
        self.kind = kind
        if kind == "cosine":
            self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))

    def queries(self, query_Pd: Tensor) -> Tensor:
        """Factors of queries; those of cosines have the scale."""
        if self.kind == "dot":
            return query_Pd
        return F.normalize(query_Pd, dim=-1) * self.scale()

    def scale(self) -> Tensor:
        """The learned scale of cosines."""
        return self.log_scale.exp().clamp(max=_LARGEST_SCALE)

    def items(self, item_Md: Tensor) -> Tensor:
        """Factors of item vectors."""
        if self.kind == "dot":
            return item_Md
        return F.normalize(item_Md, dim=-1)
