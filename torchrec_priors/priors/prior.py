"""What a prior is: groups, the targets that belong to them, and the items they may retrieve."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_priors.errors import UserError, nearest
from torchrec_priors.ops.ranges import ranges
from torchrec_priors.prepared.labels import compress


@dataclass(frozen=True)
class Targets:
    """Future interactions to be predicted, M of them.

    Attributes:
        item_M: int64 row ids.
        offset_M: int64, 1-based distance from the position that predicts, up to the horizon.
        event_M: int64 event codes; present if a level of the tree needs "events".
        user_M: int64 numbers of users, in file order of the data set; present if a level needs
            "users".
    """

    item_M: Tensor
    offset_M: Tensor
    event_M: Tensor | None = None
    user_M: Tensor | None = None

    def chosen(self, index: Tensor) -> "Targets":
        """Some of them, in the order of `index`."""
        return Targets(
            item_M=self.item_M[index],
            offset_M=self.offset_M[index],
            event_M=None if self.event_M is None else self.event_M[index],
            user_M=None if self.user_M is None else self.user_M[index],
        )


class Memberships(nn.Module):
    """Groups of items, events or users (see `compress`), on the model's device.

    Example:
        >>> labels = Memberships.from_pairs(np.array([0, 0, 2]), np.array([1, 0, 1]), entities=3)
        >>> rows, groups = labels.expand(torch.tensor([2, 0]))
        >>> rows.tolist(), groups.tolist()
        ([0, 1, 1], [1, 0, 1])
    """

    starts: Tensor
    groups: Tensor

    def __init__(self, starts: Tensor, groups: Tensor) -> None:
        super().__init__()
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("groups", groups, persistent=False)

    @classmethod
    def from_pairs(cls, entity: np.ndarray, group: np.ndarray, entities: int) -> "Memberships":
        """From (entity, group) pairs in any order."""
        starts, groups = compress(entity, group, entities)
        return cls(torch.from_numpy(starts), torch.from_numpy(groups))

    def expand(self, entity_M: Tensor) -> tuple[Tensor, Tensor]:
        """(index into entity_M, group) for every group of every entity, in the order of
        entity_M.
        """
        first_M = self.starts[entity_M]
        count_M = self.starts[entity_M + 1] - first_M
        row, place = ranges(first_M, count_M)
        return row, self.groups[place]

    def pairs(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """(entity, group) of the entities of [first, last), ascending."""
        starts = self.starts[first : last + 1].cpu().numpy()
        entity = np.repeat(np.arange(first, last), np.diff(starts))
        return entity, self.groups[starts[0] : starts[-1]].cpu().numpy()


class Prior(Protocol):
    """One level of a prior tree.

    Attributes:
        name: for messages and explanations.
        groups: human-readable names, by group number.
        restricts_items: whether Omega_k differs from all items.

        Five more are optional:

    needs: what `members` reads of the targets besides items and offsets: names from `NEEDS`.
    groups_of_users(user_B): only if each group serves only its own users. Returns (index into
        user_B, group) for every group of every user. Users are numbers in file order, none of
        them negative.
    groups_of_events(event_M): only if the groups are event types. Returns (index into event_M,
        group) for every group of every event code, so that users whose next event is known can
        be served by its groups.
    exclusive: for a level that restricts items. True if the groups are outcomes, of which a target
        has exactly one (events); False if they are labels, of which an item may have several.
    with_users: only if each group serves only its own users: bool by group number, whether the
        group has any users. A group without users has no head.
    """

    name: str
    groups: list[str]
    restricts_items: bool

    def members(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """(index into targets, group) for every group a target belongs to (Eq. 6), in the order
        of targets.
        """
        ...

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        """(row, group) for the items of [first_row, last_row) that a group may retrieve (Omega_k,
        Eq. 3).

        Called only if `restricts_items`.
        """
        ...


NEEDS = ("events", "users")


def needs_of(prior: Prior) -> tuple[str, ...]:
    """What a prior reads of the targets besides items and offsets.

    Raises:
        UserError: it asks for something that there is not.
    """
    needs = tuple(getattr(prior, "needs", ()))
    for need in needs:
        if need not in NEEDS:
            raise UserError(f"prior '{prior.name}' needs '{need}': {nearest(need, NEEDS)}")
    return needs


def is_of_users(prior: object) -> bool:
    """Whether each group is for its users alone."""
    return hasattr(prior, "groups_of_users")
