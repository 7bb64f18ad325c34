"""The section `[evaluation]`: how recommendations are made from the scores."""

from dataclasses import dataclass
from typing import Literal

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Count, CountOrZero, Section, Share, check_ranges

FusionKind = Literal["max", "mean", "hierarchical", "inverse_variance"]

# With 32 rows for each item set, the probability that no row of a set is drawn is below e^-32.
_FEWEST_ROWS = 32


@dataclass
class RetrievalConfig(Section):
    """How recommendations are made from the heads' scores. A trained model does not depend on this.

    Attributes:
        filter_seen: whether items of the user's history are left out of the recommendations.
        fusion: how the scores that several heads give an item are combined. `max` and `mean` take
            the largest score and the mean. `hierarchical` takes the max within each segment of time
            (in an additive tree, within each level), and then the mean of these.
            `inverse_variance` takes a mean that gives more weight to heads with a steady training
            loss.
        calibrated: whether scores are log P(group | user) + log P(item | group, user), so that the
            scores of all heads are on the same scale. Means are then means of probabilities. The
            model must have been trained with `loss.gate`.
        normaliser_rows: number of rows of each item set from which the denominator of P(item |
            group, user) is estimated. 0 takes all rows. Otherwise it must be at least 32, because
            with few rows a small item set could be left without any.
        batch: number of users that are scored together.
        diversify: lambda, how much the lists are made more diverse after the search; 0 leaves them
            as they are.
        tiles: the numbers by which the search compares items. `int8` compares bytes first, and
            computes exact scores only for items that may be among the best. It finds the same items
            in less time, but needs d more bytes of memory for each item. It only has an effect with
            `fusion = "max"` and uncalibrated scores.
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
        # 0 means all rows. Small numbers are rejected, because they could leave a small set without
        # any row.
        if self.normaliser_rows and self.normaliser_rows < _FEWEST_ROWS:
            raise UserError(
                f"evaluation.normaliser_rows = {self.normaliser_rows} must be at least "
                f"{_FEWEST_ROWS}, or 0 for all"
            )
