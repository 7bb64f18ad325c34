"""Groups of items, events or users as numpy arrays, for counting."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.labels import compress

Entity = Literal["item", "event", "user"]
# What is labelled by each kind of prior in a manifest.
_ENTITIES: dict[str, Entity] = {"item": "item", "graph": "item", "event": "event", "user": "user"}


@dataclass(frozen=True)
class Categories:
    """Labels of a prior of the data set.

    Attributes:
        name: the prior's name.
        groups: names by group number.
        starts, labels: the groups of all entities (see `compress`).
        entity: what is labelled: items by row id, events by code, or users by their number in file
            order.
    """

    name: str
    groups: list[str]
    starts: np.ndarray
    labels: np.ndarray
    entity: Entity = "item"

    @classmethod
    def from_pairs(
        cls,
        name: str,
        groups: list[str],
        of: np.ndarray,
        group: np.ndarray,
        count: int,
        entity: Entity = "item",
    ) -> "Categories":
        """Built from pairs of one of `count` entities and a group, in any order."""
        return cls(name, groups, *compress(of, group, count), entity)

    @classmethod
    def of_prior(cls, data: PreparedData, name: str) -> "Categories":
        """The labels of a prior of the data set.

        Raises:
            UserError: no such prior exists, or it is of an unknown kind.
        """
        info = data.manifest.prior(name)
        entity = _ENTITIES.get(info.kind)
        if entity is None:
            known = ", ".join(_ENTITIES)
            raise UserError(
                f"prior '{name}' is of an unknown kind, '{info.kind}' (known: {known}): "
                "prepare again"
            )

        pairs = data.user_pairs(name) if entity == "user" else data.prior_pairs(name, entity)
        count = {"item": data.items, "event": len(data.manifest.events), "user": data.users}[entity]
        return cls.from_pairs(name, info.groups, *pairs, count, entity)

    def expand(self, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(index into `of`, group) for every group of every entity of `of`."""
        # Entity n has the groups labels[starts[n] : starts[n + 1]]; `within` counts from 0 there.
        counts = self.starts[of + 1] - self.starts[of]
        index = np.repeat(np.arange(len(of)), counts)
        within = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
        return index, self.labels[np.repeat(self.starts[of], counts) + within]

    def count(self, row: np.ndarray, of: np.ndarray, rows: int) -> np.ndarray:
        """[rows, groups]: the number of entities of a row that are in each group.

        Args:
            row: the row that each entity of `of` belongs to.
        """
        # A row and a group are one number, so one `bincount` counts all of them.
        index, group = self.expand(of)
        cell = row[index] * len(self.groups) + group
        return np.bincount(cell, minlength=rows * len(self.groups)).reshape(rows, len(self.groups))

    def new_to(self, users: Histories) -> np.ndarray:
        """bool [B]: users with a target one of whose categories never occurs in their history."""
        seen = np.repeat(np.arange(len(users)), users.seen_lengths)
        target = np.repeat(np.arange(len(users)), users.target_lengths)

        # Presence is what matters: how often a category occurs does not.
        known_BJ = self.count(seen, users.seen, len(users)) > 0
        wanted_BJ = self.count(target, users.targets, len(users)) > 0
        return np.asarray((wanted_BJ & ~known_BJ).any(1))
