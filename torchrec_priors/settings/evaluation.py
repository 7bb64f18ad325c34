"""The section `[evaluation]`: how scores become recommendations. Nothing here changes a trained model."""

from dataclasses import dataclass
from typing import Literal

from torchrec_priors.errors import UserError

FusionKind = Literal["max", "mean", "hierarchical", "inverse_variance"]
_FEWEST_ROWS = 32  # drawn one by one: none of a set's with a probability below e^-32


@dataclass
class RetrievalConfig:
    """How the heads' scores become recommendations; they change no trained model.

    Attributes:
        filter_seen: whether items of the user's history are left out of the recommendations.
        fusion: of the scores of an item's heads: `max`, `mean`, `hierarchical` or `inverse_variance`.
        calibrated: whether scores are log P(group | user) + log P(item | group, user), which are on one scale for all
            heads; needs a model trained with `loss.gate`.
        normaliser_rows: rows of each item set from which the sum under P(item | group, user) is estimated; 0 takes all,
            otherwise at least `_FEWEST_ROWS`, as a set of which no row is drawn has no sum.
        batch: users scored together.
        diversify: lambda in [0, 1], by how much lists are made diverse after the search (`diversify.py`); 0 leaves them
            as they were found.
        tiles: `int8` searches bytes first and scores again what may be among the best: the same items in less time, for
            d more bytes an item. For max fusion of uncalibrated scores; elsewhere it has no effect.
    """

    filter_seen: bool = True
    fusion: FusionKind = "max"
    calibrated: bool = False
    normaliser_rows: int = 0
    batch: int = 64
    diversify: float = 0.0
    tiles: Literal["fp32", "int8"] = "fp32"

    def check(self) -> None:
        if self.batch < 1:
            raise UserError(f"evaluation.batch = {self.batch} must be at least 1")
        if not 0 <= self.diversify <= 1:
            raise UserError(f"evaluation.diversify = {self.diversify} must be in [0, 1]")
        if self.normaliser_rows and self.normaliser_rows < _FEWEST_ROWS:
            raise UserError(
                f"evaluation.normaliser_rows = {self.normaliser_rows} must be at least {_FEWEST_ROWS}, or 0 for all"
            )
