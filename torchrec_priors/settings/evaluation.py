"""The section `[evaluation]`: how scores become recommendations."""

from dataclasses import dataclass
from typing import Literal

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Count, CountOrZero, Section, Share, check_ranges

FusionKind = Literal["max", "mean", "hierarchical", "inverse_variance"]

# Rows are drawn one by one: the probability that none of a set's is drawn stays below e^-32.
_FEWEST_ROWS = 32


@dataclass
class RetrievalConfig(Section):
    """How the heads' scores become recommendations. Nothing here changes a trained model.

    Attributes:
        filter_seen: whether items of the user's history are left out of the recommendations.
        fusion: how the scores of an item's heads are fused: `max`; `mean`; `hierarchical`: the mean
            over segments of time (in an additive tree: over levels) of the max inside each;
            `inverse_variance`: a mean that gives more weight to heads with a steady training loss.
        calibrated: whether scores are log P(group | user) + log P(item | group, user), which are on
            one scale for all heads; means are then of probabilities. Needs a model trained with
            `loss.gate`.
        normaliser_rows: rows of each item set from which the denominator of P(item | group, user)
            is estimated; 0 takes all, otherwise at least 32, as a set of which no row is drawn has
            no sum.
        batch: users scored together.
        diversify: lambda, by how much lists are made diverse after the search; 0 leaves them as the
            search found them.
        tiles: `int8` searches bytes first and scores again what may be among the best: the same
            items in less time, for d more bytes an item. For `max` fusion of uncalibrated scores;
            otherwise it has no effect.
    """

    filter_seen: bool = True
    fusion: FusionKind = "max"
    calibrated: bool = False
    normaliser_rows: CountOrZero = 0
    batch: Count = 64
    diversify: Share = 0.0
    tiles: Literal["fp32", "int8"] = "fp32"

    def check(self) -> None:
        """Raises UserError if a value is out of its range."""
        check_ranges(self, "evaluation")
        # A gap in the range: 0 means all rows, and few rows may miss every row of a small set.
        if self.normaliser_rows and self.normaliser_rows < _FEWEST_ROWS:
            raise UserError(
                f"evaluation.normaliser_rows = {self.normaliser_rows} must be at least "
                f"{_FEWEST_ROWS}, or 0 for all"
            )
