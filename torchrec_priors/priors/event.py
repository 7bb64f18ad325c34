"""Event priors: a target belongs to the groups of its event.

A group may retrieve the items that had one of its events in training (Omega_k).
"""

import numpy as np
from torch import Tensor, nn

from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import prior_of_data
from torchrec_priors.priors.prior import Memberships, Targets


class EventPrior(nn.Module):
    """A prior whose groups are sets of event types, such as "viewed" or "rated with four stars"."""

    kind = "event"
    restricts_items = True
    exclusive = True
    needs = ("events",)

    def __init__(
        self,
        name: str,
        groups: list[str],
        of_events: Memberships,
        of_items: Memberships,
        words: str = "",
    ) -> None:
        """
        Args:
            groups: names of the groups, in the order of their numbers.
            of_events: the groups of each event code; every code has at least one.
            of_items: for each item, the groups that may retrieve it.
            words: what a group is called in reasons for people (see `Prior`).
        """
        super().__init__()
        assert bool((of_events.starts.diff() > 0).all()), (
            f"an event of prior '{name}' is in no group"
        )
        self.name = name
        self.groups = groups
        self.words = words
        self.of_events = of_events
        self.of_items = of_items

    def members(self, targets: Targets) -> tuple[Tensor, Tensor]:
        assert targets.event_M is not None, f"prior '{self.name}' needs events"
        return self.groups_of_events(targets.event_M)

    def padded_members(self, targets: Targets) -> Tensor:
        assert targets.event_M is not None, f"prior '{self.name}' needs events"
        return self.of_events.padded(targets.event_M)

    def groups_of_events(self, event_M: Tensor) -> tuple[Tensor, Tensor]:
        return self.of_events.expand(event_M)

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        return self.of_items.pairs(first_row, last_row)


def load(argument: str, data: PreparedData, horizon: int) -> EventPrior:
    """Loads an event prior of the data set; `argument` is its name."""
    info = prior_of_data(argument, data, "event")
    if not info.eligible:
        raise UserError(
            f"priors.tree: the data set does not say which items saw '{argument}': prepare it again"
        )

    event, group = data.prior_pairs(argument, "event")
    of_events = Memberships.from_pairs(event, group, len(data.manifest.events))
    row, group = data.prior_pairs(f"{argument}.eligible", "item")
    of_items = Memberships.from_pairs(row, group, data.items)
    return EventPrior(argument, info.groups, of_events, of_items, info.words)
