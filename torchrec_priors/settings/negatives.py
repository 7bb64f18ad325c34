"""The section `[negatives]`: the items that a positive competes with in the softmax (Eq. 7)."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from pydantic import AllowInfNan

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import (
    Count,
    CountOrZero,
    PositiveShare,
    Section,
    Share,
    check_ranges,
)


@dataclass
class NegativesConfig(Section):
    """The negatives: items that a positive competes with in the softmax (Eq. 7).

    Attributes:
        per_set: number of negatives of a query. In each step, this many items are drawn for each
            item set, including those of `catalogue_share`. The item sets are the groups of an item
            prior, or all items if there is no item prior. If a set has at most this many items, all
            of them are taken, which gives an exact softmax.
        total: if not 0, the number of draws in a step for all item sets together, which replaces
            `per_set`. Each set gets a number in proportion to its training positives, but at least
            one. So groups with more weight in the loss get more draws and a more precise softmax.
        popularity: alpha. Items of a set are drawn with probability proportional to (training
            interactions + 1) ^ alpha; 0 draws uniformly.
        catalogue_share: share of the draws that come from the whole catalogue. In each step, these
            are round(share * per_set) draws, which all sets share. 1 is the paper's "w/o in-group
            negative sampling" (Table 9).
        logq: whether log(draws * probability) is subtracted from the logit of each negative. The
            sum over negatives is then an unbiased estimate of (1 - share) * (sum over Omega_k) +
            share * (sum over all items). Otherwise the sum of Eq. 7 is taken over the draws without
            a correction.
        seen: whether the negatives of a position may contain items that the user has seen, i.e.
            items of the context up to this position. If seen items are never recommended
            (`evaluation.filter_seen`), the model need not learn to rank them below other items, and
            false trains it for the ranking that is evaluated.
        near_duplicates: negatives whose cosine with one of the query's positives is above this
            number are left out, because they are almost the same item (HLLM: 0.99); 1 leaves out
            none. It needs `model.score = "cosine"`.
    """

    per_set: Count = 1024
    total: CountOrZero = 0
    popularity: Annotated[float, Ge(0), Le(16), AllowInfNan(False)] = 0.0
    catalogue_share: Share = 0.0
    logq: bool = False
    seen: bool = True
    near_duplicates: PositiveShare = 1.0

    @property
    def shared(self) -> int:
        """The number of draws from the whole catalogue."""
        return round(self.catalogue_share * (self.total or self.per_set))

    @property
    def in_group(self) -> int:
        """The number of draws from each item set; with `total`, from all item sets together."""
        return (self.total or self.per_set) - self.shared

    def check(self) -> None:
        """Raises UserError if a value is out of its range, or a share comes to no draw at all."""
        check_ranges(self, "negatives")

        # A share above 0 must give at least one draw from the catalogue, and a share below 1 at
        # least one draw from the sets.
        no_shared = self.catalogue_share > 0 and not self.shared
        no_in_group = self.catalogue_share < 1 and not self.in_group
        if no_shared or no_in_group:
            whole = int(self.shared > 0)
            raise UserError(
                f"negatives.catalogue_share = {self.catalogue_share} of "
                f"{self.total or self.per_set} negatives is less than one draw: write {whole}, or "
                "draw more"
            )
