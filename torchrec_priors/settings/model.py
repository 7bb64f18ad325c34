"""The section `[model]`: sizes, and how a score is computed."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, MultipleOf

from torchrec_priors.settings.ranges import Section, check_ranges

ScoreKind = Literal["dot", "cosine"]


@dataclass
class ModelConfig(Section):
    """Sizes and the score.

    Attributes:
        dim: width of item vectors and states; a multiple of 4, as FBGEMM's kernels need.
        context: most items of a history that the encoder sees (the paper's T; L in the code).
        horizon: tau, the number of future items that every position predicts in training.
        score: `dot` (Eq. 1) or `cosine` (cosine times a learned scale).
        size: `paper-1` to `paper-4` or `paper-1B`: the sizes of the paper's Table 5. Gives `dim`
            and the encoder's `layers`, `heads` and `dropout` if they are not given.
    """

    dim: Annotated[int, Ge(4), Le(1 << 16), MultipleOf(4)] = 64
    context: Annotated[int, Ge(1), Le(1 << 20)] = 50
    horizon: Annotated[int, Ge(1), Le(1 << 12)] = 8
    score: ScoreKind = "dot"
    size: str = ""

    def check(self) -> None:
        """Raises UserError if a value is out of its range."""
        check_ranges(self, "model")
