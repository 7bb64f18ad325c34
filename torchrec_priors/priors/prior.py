"""A prior names groups, assigns targets to them, and says which items each group may retrieve."""

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
    """A batch of M targets: future interactions that the model is to predict.

    Attributes:
        item_M: int64, the row id of each target's item.
        offset_M: int64, the distance of each target from the position that predicts it, from 1 up
            to the horizon.
        event_M: int64, the event code of each target; None unless a level of the tree needs
            "events".
        user_M: int64, the index of each target's user in the file order of the data set; None
            unless a level of the tree needs "users".
    """

    item_M: Tensor
    offset_M: Tensor
    event_M: Tensor | None = None
    user_M: Tensor | None = None

    def chosen(self, index: Tensor) -> "Targets":
        """Returns the targets at the positions in `index`, in this order."""
        return Targets(
            item_M=self.item_M[index],
            offset_M=self.offset_M[index],
            event_M=None if self.event_M is None else self.event_M[index],
            user_M=None if self.user_M is None else self.user_M[index],
        )


class Memberships(nn.Module):
    """The groups of items, events or users, compressed into two tensors on the model's device.

    The groups of entity i are `groups[starts[i] : starts[i + 1]]` (see `compress`).

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
        self.most = int(starts.diff().max()) if len(starts) > 1 else 0

    @classmethod
    def from_pairs(cls, entity: np.ndarray, group: np.ndarray, entities: int) -> "Memberships":
        """Compresses (entity, group) pairs, which may be in any order.

        Args:
            entity, group: numbers of the two members of each pair.
            entities: the number of entities, including those without a group.
        """
        starts, groups = compress(entity, group, entities)
        return cls(torch.from_numpy(starts), torch.from_numpy(groups))

    def expand(self, entity_M: Tensor) -> tuple[Tensor, Tensor]:
        """Looks up all groups of some entities.

        Returns:
            (index into entity_M, group): one pair for each group of each entity, in the order of
            entity_M.
        """
        first_M = self.starts[entity_M]
        count_M = self.starts[entity_M + 1] - first_M
        index, position = ranges(first_M, count_M)
        return index, self.groups[position]

    def padded(self, entity_M: Tensor) -> Tensor:
        """Looks up all groups of some entities.

        Returns:
            int64 [M, the largest number of groups of an entity], padded with -1.

        >>> labels = Memberships.from_pairs(np.array([0, 0, 2]), np.array([1, 0, 1]), entities=3)
        >>> labels.padded(torch.tensor([2, 1, 0])).tolist()
        [[1, -1], [-1, -1], [0, 1]]
        """
        if not self.most:
            return entity_M.new_full((len(entity_M), 1), -1)
        place_MG = self.starts[entity_M][:, None] + torch.arange(self.most, device=entity_M.device)
        exists_MG = place_MG < self.starts[entity_M + 1][:, None]
        group_MG = self.groups[place_MG.clamp_(max=len(self.groups) - 1)]
        return torch.where(exists_MG, group_MG, -1)

    def pairs(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the (entity, group) pairs of entities in [first, last), in ascending order."""
        starts = self.starts[first : last + 1].cpu().numpy()
        entity = np.repeat(np.arange(first, last), np.diff(starts))
        return entity, self.groups[starts[0] : starts[-1]].cpu().numpy()


class Prior(Protocol):
    """One level of a prior tree.

    Attributes:
        name: the name of the prior in messages and explanations.
        groups: human-readable names of the groups, in the order of their numbers.
        restricts_items: True if a group may retrieve only some of the items (Omega_k); False if
            every group may retrieve all items.

    A prior may also define the following attributes and methods:

    kind: what the groups are, for reasons that people read (`serving/reasons.py`): "item", "graph",
        "event", "user", "temporal", "random", "all" or "interests". See `kind_of`.
    words: what a group is called in these reasons, with `{}` in the place of its name, such as
        "{} films"; empty for the usual words.
    needs: a tuple of names from `NEEDS`, which says what `members` reads of the `Targets` in
        addition to items and offsets.
    groups_of_users(user_B): defined if each group serves only its own users. It returns (index
        into user_B, group), one pair for each group of each user. Users are given as numbers in
        file order, which are never negative.
    groups_of_events(event_M): defined if the groups are groups of event types. It returns (index
        into event_M, group), one pair for each group of each event code. With it, a search for
        users whose next event is known uses only the groups of this event.
    padded_members(targets): defined if the groups of targets are known without a size that depends
        on them. It returns int64 [M, G], the groups of each target, padded with -1. If all levels
        have it, a GPU's host waits only once for the positives of a step.
    exclusive: matters only if `restricts_items` is True. It is True if the groups are outcomes that
        exclude each other (events), so a target belongs to exactly one group. It is False, the
        default, if the groups are labels, so an item may belong to several.
    with_users: defined if each group serves only its own users. It has a bool for each group, which
        says whether the group has any users. A group without users has no head.
    """

    name: str
    groups: list[str]
    restricts_items: bool

    def members(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """Assigns targets to groups (Eq. 6).

        Returns:
            (index into targets, group): one pair for each group that a target belongs to, in the
            order of the targets.
        """
        ...

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        """Lists the items that each group may retrieve (Omega_k, Eq. 3).

        It is called only if `restricts_items` is True.

        Returns:
            (row id, group): one pair for each item in [first_row, last_row) and each group that
            may retrieve it.
        """
        ...


NEEDS = ("events", "users")


def needs_of(prior: Prior) -> tuple[str, ...]:
    """Returns what a prior reads of the targets in addition to items and offsets.

    Raises:
        UserError: the prior's `needs` contains a name that is not in `NEEDS`.
    """
    needs = tuple(getattr(prior, "needs", ()))
    for need in needs:
        if need not in NEEDS:
            raise UserError(f"prior '{prior.name}' needs '{need}': {nearest(need, NEEDS)}")
    return needs


def kind_of(prior: object) -> str:
    """Returns what the groups of a prior are; "" if its attributes do not show it."""
    kind = getattr(prior, "kind", "")
    if kind:
        return str(kind)
    if is_of_users(prior):
        return "user"
    if hasattr(prior, "groups_of_events"):
        return "event"
    return "item" if getattr(prior, "restricts_items", False) else ""


def is_of_users(prior: object) -> bool:
    """Whether each group of the prior serves only its own users."""
    return hasattr(prior, "groups_of_users")
