"""The section `[model]`: sizes, and how a score is computed."""

from dataclasses import dataclass
from typing import Literal

from torchrec_priors.errors import UserError

ScoreKind = Literal["dot", "cosine"]


@dataclass
class ModelConfig:
    """Sizes and the score.

    Attributes:
        dim: width of item vectors and states.
        context: most items of a history that the encoder sees (T of the paper).
        horizon: tau, how many future items every position predicts in training.
        score: `dot` (Eq. 1) or `cosine` (cosine times a learned scale).
        size: `paper-1` to `paper-4` or `paper-1B` (its Table 5): gives dim and the encoder's layers, heads and dropout
            where they are not given.
    """

    dim: int = 64
    context: int = 50
    horizon: int = 8
    score: ScoreKind = "dot"
    size: str = ""

    def check(self) -> None:
        for name in ("dim", "context", "horizon"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} = {getattr(self, name)} must be at least 1")
        if self.dim % 4:
            raise UserError(f"model.dim = {self.dim} must be a multiple of 4 (FBGEMM's kernels)")
