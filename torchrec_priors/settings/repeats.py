"""The section `[repeats]`: the head for items that the user has already interacted with."""

from dataclasses import dataclass

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Amount, Section, check_ranges


@dataclass
class RepeatsConfig(Section):
    """The repeat head, which predicts items of the history; the prior heads predict all others.

    Attributes:
        weight: the weight of the repeat head's loss, which is added to Eq. 8. 0 gives a model
            without this head. It needs `negatives.seen = false`, because the prior heads then only
            learn which new items come next. Scores are calibrated, so if `priors.tree` has groups
            of items, it also needs `loss.gate`.
        time_bias: whether the head has a learned bias that depends on the time since an
            interaction. The data set must have times.
    """

    weight: Amount = 0.0
    time_bias: bool = False

    def check(self) -> None:
        """Raises UserError if a value is out of its range, or there is no head to have a bias."""
        check_ranges(self, "repeats")
        if self.time_bias and not self.weight:
            raise UserError(
                "repeats.time_bias needs a repeat head: set repeats.weight, or unset it"
            )
