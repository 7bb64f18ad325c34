"""How a request may steer the heads without retraining: only some, not some, some more, shares."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchrec_priors.errors import UserError
from torchrec_priors.serving.head_names import HeadNames

log = logging.getLogger(__name__)

MOST_SHARES = 5  # groups overlap in up to 2^5 ways, each of which is searched


@dataclass(frozen=True)
class Levers:
    """Names are those of `HeadNames`.

    Attributes:
        only: heads that may answer, those of all the names together; None for all.
        mute: heads that may not answer, even if they are in `only`.
        boost: factors above 0 of the heads' probabilities: their logarithms are added to the heads'
            scores, which is exactly that if scores are calibrated. Factors of several names of one
            head multiply.
        at_least: shares of the k items, in (0, 1], for items that these heads may retrieve.

    Raises:
        UserError: an invalid value.
    """

    only: tuple[str, ...] | None = None
    mute: tuple[str, ...] = ()
    boost: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        only: Iterable[str] | None,
        mute: Iterable[str] | None,
        boost: Mapping[str, float] | None,
        at_least: Mapping[str, float] | None,
    ) -> "Levers":
        """From a caller's arguments; None for those that are not used."""
        for option, names in (("only", only), ("mute", mute)):
            if isinstance(names, str):
                raise UserError(f"{option}: '{names}' is one name: give a list of names")
        # Copied, so a caller may change its lists afterwards.
        return cls(
            None if only is None else tuple(only),
            tuple(mute or ()),
            dict(boost or {}),
            dict(at_least or {}),
        )

    def __post_init__(self) -> None:
        # An empty list would silence every head, which is never meant.
        if self.only is not None and not self.only:
            raise UserError("only: names no head: name one, or leave it out")
        for name, factor in self.boost.items():
            if not (_is_number(factor) and 0 < factor < math.inf):
                raise UserError(f"boost: '{name}' = {factor} must be a number above 0")
        for name, share in self.at_least.items():
            if not (_is_number(share) and 0 < share <= 1):
                raise UserError(
                    f"at-least: '{name}' = {share} must be a share above 0 and at most 1, as 0.3"
                )
        if len(self.at_least) > MOST_SHARES:
            raise UserError(f"at-least: {len(self.at_least)} groups: give {MOST_SHARES} at most")

    def bias(self, names: HeadNames) -> Tensor | None:
        """[K], added to the scores of every head; None without levers.

        It is the log of the head's factor, and -inf if the head may not answer.

        Raises:
            UserError: a name of no head, or no head is left.
        """
        if self.only is None and not self.mute and not self.boost:
            return None

        paths = len(names.tree.item_set_K)
        may_answer_K = torch.full((paths,), self.only is None)
        for name in self.only or ():
            may_answer_K |= names.find(name, "only").path_K
        # After `only`: what is muted stays muted.
        for name in self.mute:
            may_answer_K &= ~names.find(name, "mute").path_K
        if not may_answer_K.any():
            raise UserError(
                "only, mute: no head is left that may answer: name fewer in mute, or more in only"
            )

        # Several factors of a head are added up before they are rounded to float32.
        bias_K = torch.zeros(paths, dtype=torch.float64)
        for name, factor in self.boost.items():
            path_K = names.find(name, "boost").path_K
            if not (path_K & may_answer_K).any():
                log.warning("boost: '%s' changes nothing, as none of its heads may answer", name)
            bias_K[path_K] += math.log(factor)
        return bias_K.float().masked_fill(~may_answer_K, -torch.inf)

    def shares(self, names: HeadNames) -> dict[str, Tensor]:
        """bool [K] by name of `at_least`: the heads whose items are meant.

        Raises:
            UserError: a name of no head, or of groups that restrict no items.
        """
        # A group that restricts no items, as a segment of time, has a share of 1 anyway.
        matches = {name: names.find(name, "at-least") for name in self.at_least}
        for name, match in matches.items():
            if not match.restricts_items:
                raise UserError(
                    f"at-least: '{name}' has all items: name a group of items, such as a category"
                )
        return {name: match.path_K for name, match in matches.items()}


def _is_number(value: object) -> bool:
    # True and False are integers in Python.
    return isinstance(value, int | float) and not isinstance(value, bool)
