"""The section `[repeats]`: the head for items that the user has already interacted with."""

from dataclasses import dataclass

from torchrec_priors.settings.ranges import Amount, Section, check_ranges


@dataclass
class RepeatsConfig(Section):
    """The repeat head, which predicts items of the history; the prior heads predict all others.

    Attributes:
        weight: the weight of the repeat head's loss, which is added to Eq. 8. 0 gives a model
            without this head. It needs `negatives.seen = false`, because the prior heads then only
            learn which new items come next. Scores are calibrated, so if `priors.tree` has groups
            of items, it also needs `loss.gate`.
    """

    weight: Amount = 0.0

    def check(self) -> None:
        """Raises UserError if a value is out of its range."""
        check_ranges(self, "repeats")
