"""Levers of a request: they change which heads are used, and how much, without training again."""

import logging
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchrec_priors.common.limits import MOST_SHARES
from torchrec_priors.errors import UserError
from torchrec_priors.serving.head_names import HeadNames

log = logging.getLogger(__name__)


class NoHeadError(UserError):
    """Levers leave no head."""


@dataclass(frozen=True)
class Levers:
    """The levers of a request. Heads are given by the names of `HeadNames`.

    Attributes:
        only: names of heads that may be used. A head may be used if any of the names matches it.
            None allows all heads.
        mute: names of heads that may not be used, even if a name in `only` matches them.
        boost: for each name, a factor above 0 for the probabilities of its heads. The logarithm of
            the factor is added to the scores; this multiplies probabilities if scores are
            calibrated. If several names match a head, their factors are multiplied.
        at_least: for each name, the share of the k items, in (0, 1], that its heads must be able to
            retrieve.

    Raises:
        UserError: a value is invalid.
    """

    only: Sequence[str] | None = None
    mute: Sequence[str] = ()
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
        """Makes levers from the arguments of a caller; None for a lever that is not used."""
        return cls(
            only,  # type: ignore[arg-type]
            mute or (),  # type: ignore[arg-type]
            boost or {},
            at_least or {},
        )

    @property
    def is_empty(self) -> bool:
        """Whether no lever is used."""
        return self.only is None and not (self.mute or self.boost or self.at_least)

    @property
    def key(self) -> Hashable:
        """A value that is equal for equal levers, to find what was prepared for them."""
        return (
            self.only,
            self.mute,
            tuple(sorted(self.boost.items())),
            tuple(self.at_least.items()),
        )

    def __post_init__(self) -> None:
        # Callers may give any lists. They are copied, so that they may be changed afterwards.
        for option in ("only", "mute"):
            names = getattr(self, option)
            if isinstance(names, str):
                raise UserError(f"{option}: '{names}' is one name: give a list of names")
            if names is not None:
                object.__setattr__(self, option, tuple(names))
        for option in ("boost", "at_least"):
            object.__setattr__(self, option, dict(getattr(self, option)))

        # An empty list would exclude every head, which is certainly a mistake.
        if self.only is not None and not self.only:
            raise UserError("only: it is empty: name at least one head, or leave it out")
        for name, factor in self.boost.items():
            if not (_is_number(factor) and 0 < factor < math.inf):
                raise UserError(f"boost: '{name}' = {factor} must be a number above 0")
        for name, share in self.at_least.items():
            if not (_is_number(share) and 0 < share <= 1):
                raise UserError(
                    f"at-least: '{name}' = {share} must be a share above 0 and at most 1,"
                    " such as 0.3"
                )
        if len(self.at_least) > MOST_SHARES:
            raise UserError(f"at-least: {len(self.at_least)} groups: give {MOST_SHARES} at most")

    def bias(self, names: HeadNames) -> Tensor | None:
        """Returns the bias of each head, which is added to its scores.

        There are K, and one more for a repeat head.
        It is the logarithm of the head's factor, or -inf if the head may not be used. It is None if
        `only`, `mute` and `boost` are not used.

        Raises:
            UserError: a name matches no head.
            NoHeadError: no head is left.
        """
        if self.only is None and not self.mute and not self.boost:
            return None

        is_used_K = torch.full((names.heads,), self.only is None)
        for name in self.only or ():
            is_used_K |= names.find(name, "only").path_K
        # `mute` is applied after `only`, so it has priority.
        for name in self.mute:
            is_used_K &= ~names.find(name, "mute").path_K
        if not is_used_K.any():
            raise NoHeadError(
                "only, mute: no head is left: name fewer heads in mute, or more in only"
            )

        # The logarithms of several factors are added up in float64, and rounded to float32 once.
        bias_K = torch.zeros(names.heads, dtype=torch.float64)
        for name, factor in self.boost.items():
            path_K = names.find(name, "boost").path_K
            if not (path_K & is_used_K).any():
                log.warning("boost: '%s' changes nothing, as none of its heads may answer", name)
            bias_K[path_K] += math.log(factor)
        return bias_K.float().masked_fill(~is_used_K, -torch.inf)

    def shares(self, names: HeadNames) -> dict[str, Tensor]:
        """Returns bool [K] for each name in `at_least`: whether the name matches the head.

        Raises:
            UserError: a name matches no head, or has no group that restricts items.
        """
        # A group that restricts no items, such as a segment of time, always has a share of 1.
        matches = {name: names.find(name, "at-least") for name in self.at_least}
        for name, match in matches.items():
            if not match.restricts_items:
                raise UserError(
                    f"at-least: '{name}' does not restrict items: name a group of items, such as a"
                    " category"
                )
        paths = len(names.tree.item_set_K)
        return {name: match.path_K[:paths] for name, match in matches.items()}


def _is_number(value: object) -> bool:
    """Whether a value is an integer or a float; bool, a subclass of int, is excluded."""
    return isinstance(value, int | float) and not isinstance(value, bool)
