"""The section `[negatives]`: items from which a positive is distinguished (Eq. 7)."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from pydantic import AllowInfNan

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Count, CountOrZero, Section, Share, check_ranges


@dataclass
class NegativesConfig(Section):
    """Items from which a positive is distinguished (Eq. 7).

    Attributes:
        per_set: negatives of a query: draws a step for each item set (each group of an item prior;
            all items if there is no item prior), those of `catalogue_share` included. A set of at
            most this many items is taken whole: an exact softmax.
        total: if not 0, draws a step over all item sets together, instead of `per_set` for each: a
            set has them in proportion to its training positives, but at least one. Cost and the
            precision of every group's softmax then follow what groups weigh in the loss.
        popularity: alpha: items of a set are drawn with probability proportional to (training
            interactions + 1) ^ alpha; 0 is uniform.
        catalogue_share: share of the draws that comes from the whole catalogue: one pool of
            round(share * per_set) draws a step, shared by all sets. 1 is the paper's "w/o in-group
            negative sampling" (Table 9).
        logq: whether every negative's logit is lowered by log(draws * probability), so the sum over
            negatives is an unbiased estimate of (1 - share) * (sum over Omega_k) + share * (sum
            over all items). Without it, Eq. 7 is over the draws as they are.
        seen: whether seen items, i.e. those of the context up to a position, may be among its
            negatives. If seen items are never recommended (`evaluation.filter_seen`), they need not
            be distinguished from what comes next: without them heads learn the ranking that is
            evaluated.
    """

    per_set: Count = 1024
    total: CountOrZero = 0
    popularity: Annotated[float, Ge(0), Le(16), AllowInfNan(False)] = 0.0
    catalogue_share: Share = 0.0
    logq: bool = False
    seen: bool = True

    @property
    def shared(self) -> int:
        """Draws from the whole catalogue."""
        return round(self.catalogue_share * (self.total or self.per_set))

    @property
    def in_group(self) -> int:
        """Draws from each item set; with `total`, from all of them."""
        return (self.total or self.per_set) - self.shared

    def check(self) -> None:
        """Raises UserError if a value is out of its range, or a share rounds to nothing."""
        check_ranges(self, "negatives")

        # A share above 0 draws something of the whole catalogue, one below 1 something of the sets.
        no_shared = self.catalogue_share > 0 and not self.shared
        no_in_group = self.catalogue_share < 1 and not self.in_group
        if no_shared or no_in_group:
            whole = int(self.shared > 0)
            raise UserError(
                f"negatives.catalogue_share = {self.catalogue_share} of "
                f"{self.total or self.per_set} negatives is no whole draw: write {whole}, or draw "
                "more"
            )
