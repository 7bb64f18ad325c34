"""The settings of a mixed log: the share of interactions that each source draws."""

import math
from dataclasses import dataclass, fields
from enum import IntEnum

from torchrec_priors.errors import UserError


class Source(IntEnum):
    """What draws an interaction's item; all draw by popularity, from different sets of items."""

    popular = 0
    """The whole catalogue."""
    long_term = 1
    """One of the leaf categories that the user is interested in for good."""
    session = 2
    """One of the two leaf categories that only the session is about."""
    event = 3
    """The favourites of the interaction's event type."""
    community = 4
    """One of the user's two communities of items, which cross the categories."""
    group = 5
    """The favourites of the user's group."""


@dataclass(frozen=True)
class Mix:
    """The settings of a mixed log.

    The rest of the interactions, up to a share of 1, is drawn from the whole catalogue.

    Attributes:
        long_term: The share of interactions drawn from the user's long-term interests.
        session: The share drawn from the session's topics.
        event: The share drawn from the favourites of the event type.
        community: The share drawn from the user's communities.
        group: The share drawn from the favourites of the user's group.
        drift: How far the weights of the long-term interests move, in logits; 0 if they stay.
        communities: The number of communities of items; None for one for every 40 items, and at
            least 2 and at most 64.

    Raises:
        UserError: A value is out of range, or the shares are more than 1 together.
    """

    long_term: float = 0.25
    session: float = 0.25
    event: float = 0.1
    community: float = 0.2
    group: float = 0.15
    drift: float = 1.0
    communities: int | None = None

    def __post_init__(self) -> None:
        for source in list(Source)[1:]:
            share = getattr(self, source.name)
            if not 0 <= share <= 1:
                raise UserError(f"--option: {source.name} = {share}: give a share from 0 to 1")

        # The tolerance is for shares such as .1 and .2, whose sums are rounded.
        together = sum(getattr(self, source.name) for source in list(Source)[1:])
        if together > 1 + 1e-9:
            names = ", ".join(source.name for source in list(Source)[1:])
            raise UserError(
                f"--option: {names} are {together:.6g} together: "
                "give shares with a sum of at most 1"
            )

        if not (math.isfinite(self.drift) and 0 <= self.drift <= 10):
            raise UserError(f"--option: drift = {self.drift}: give a number from 0 to 10")
        if self.communities is not None and not 2 <= self.communities <= 1_000:
            raise UserError(
                f"--option: communities = {self.communities}: give a number from 2 to 1000"
            )

    def shares(self) -> list[float]:
        """Returns the share of each source, in the order of `Source`."""
        named = [getattr(self, source.name) for source in list(Source)[1:]]
        return [max(0.0, 1.0 - sum(named)), *named]

    def communities_of(self, items: int) -> int:
        """Returns the number of communities in a catalogue with `items` items.

        >>> [Mix().communities_of(items) for items in (74, 2_364, 44_456)]
        [2, 59, 64]
        """
        wanted = min(max(items // 40, 2), 64) if self.communities is None else self.communities
        if wanted > items:
            raise UserError(
                f"--option: communities = {wanted}: the catalogue has only {items} items"
            )
        return wanted

    def values(self) -> dict[str, float | int | None]:
        """Returns all settings by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
