"""The section `[negatives]`: which items a positive is told from (Eq. 7)."""

from dataclasses import dataclass

from torchrec_priors.errors import UserError


@dataclass
class NegativesConfig:
    """Which items a positive is told from (Eq. 7).

    Attributes:
        per_set: negatives a query has: draws a step for each item set (each group of an item prior; all items where
            there is none), those of `catalogue_share` included. A set of at most its draws is taken whole: an exact
            softmax.
        total: where it is not 0, draws a step over all item sets together, in place of `per_set` for each: a set has
            them in proportion to its training positives, but at least one. Cost and the precision of every group's
            softmax then follow what groups weigh in the loss.
        popularity: alpha >= 0: items of a set are drawn with probability proportional to (training interactions + 1) ^
            alpha; 0 is uniform.
        catalogue_share: share of the draws that comes from the whole catalogue: one pool of round(share * per_set)
            draws a step, shared by all sets. 1 is the paper's "w/o in-group negative sampling" (Table 9).
        logq: every negative's logit is lowered by log(draws * probability), so that the sum over negatives is an
            unbiased estimate of (1 - share) * (sum over Omega_k) + share * (sum over all items). Without it, Eq. 7 is
            over what was drawn, as it was drawn.
        met: whether items that the context has met by a position are among its negatives. Where what was met is never
            recommended (`evaluation.filter_seen`), they need not be told from what comes next: without them heads
            learn the ranking that is evaluated.
    """

    per_set: int = 1024
    total: int = 0
    popularity: float = 0.0
    catalogue_share: float = 0.0
    logq: bool = False
    met: bool = True

    @property
    def shared(self) -> int:
        """Draws from the whole catalogue."""
        return round(self.catalogue_share * (self.total or self.per_set))

    @property
    def in_group(self) -> int:
        """Draws from each item set; with `total`, from all of them."""
        return (self.total or self.per_set) - self.shared

    def check(self) -> None:
        if self.per_set < 1:
            raise UserError(f"negatives.per_set = {self.per_set} must be at least 1")
        if self.total < 0:
            raise UserError(f"negatives.total = {self.total} must not be negative")
        if self.popularity < 0:
            raise UserError(f"negatives.popularity = {self.popularity} must not be negative")
        share = f"negatives.catalogue_share = {self.catalogue_share}"
        if not 0 <= self.catalogue_share <= 1:
            raise UserError(f"{share} must be in [0, 1]")
        if (self.catalogue_share > 0 and not self.shared) or (
            self.catalogue_share < 1 and not self.in_group
        ):
            whole = 0 if not self.shared else 1
            raise UserError(
                f"{share} of {self.total or self.per_set} negatives is no whole draw: write {whole}, or draw more"
            )
