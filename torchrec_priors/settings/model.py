"""The section `[model]`: the sizes of the model, and how it computes a score."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, MultipleOf
from pydantic import AllowInfNan

from torchrec_priors.settings.ranges import Section, check_ranges

ScoreKind = Literal["dot", "cosine"]


@dataclass
class ModelConfig(Section):
    """The sizes of the model, and the kind of score.

    Attributes:
        dim: width of item vectors and states. FBGEMM's kernels need a multiple of 4.
        context: the largest number of items of a history that the encoder reads (the paper's T; L
            in the code).
        horizon: tau, the number of future items that every position predicts in training.
        score: `dot` (Eq. 1) or `cosine` (cosine times a learned scale, which is at most 100).
        first_scale: the first value of this scale (HLLM: 14.29).
        size: `paper-1` to `paper-4` or `paper-1B`, the sizes of the paper's Table 5. It sets `dim`
            and the encoder's `layers`, `heads` and `dropout`, except those that are given.
    """

    dim: Annotated[int, Ge(4), Le(1 << 16), MultipleOf(4)] = 64
    context: Annotated[int, Ge(1), Le(1 << 20)] = 50
    horizon: Annotated[int, Ge(1), Le(1 << 12)] = 8
    score: ScoreKind = "dot"
    first_scale: Annotated[float, Ge(1), Le(100), AllowInfNan(False)] = 20.0
    size: str = ""

    def check(self) -> None:
        """Raises UserError if a value is out of its range."""
        check_ranges(self, "model")
