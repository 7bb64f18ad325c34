"""The groups of a prior as numpy arrays, with methods that count entities in groups."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.labels import compress

Entity = Literal["item", "event", "user"]
# For each kind of prior in a manifest, what a prior of this kind labels.
_ENTITIES: dict[str, Entity] = {"item": "item", "graph": "item", "event": "event", "user": "user"}


@dataclass(frozen=True)
class Categories:
    """The labels of items, events or users that a prior of the data set defines.

    Attributes:
        name: the name of the prior.
        groups: the names of the groups, in the order of their numbers.
        starts, labels: the groups of all entities. Entity n has the groups
            `labels[starts[n] : starts[n + 1]]` (see `compress`).
        entity: the kind of labelled entities: items are given by row id, events by code, and users
            by their number in file order.
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
        """Makes categories from pairs of an entity and a group, which may be in any order.

        Args:
            name, groups, entity: as the attributes.
            of: the entity of each pair.
            group: the group number of each pair.
            count: the number of entities, including those without a group.
        """
        return cls(name, groups, *compress(of, group, count), entity)

    @classmethod
    def of_prior(cls, data: PreparedData, name: str) -> "Categories":
        """Loads the labels of a prior of the data set.

        Raises:
            UserError: the data set has no such prior, or the prior is of an unknown kind.
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
        """Looks up all groups of the entities in `of`.

        Returns:
            (index into `of`, group): one pair for each group of each entity.
        """
        # `within` counts the groups of an entity from 0.
        counts = self.starts[of + 1] - self.starts[of]
        index = np.repeat(np.arange(len(of)), counts)
        within = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
        return index, self.labels[np.repeat(self.starts[of], counts) + within]

    def count(self, row: np.ndarray, of: np.ndarray, rows: int) -> np.ndarray:
        """Counts the entities of each row in each group.

        Args:
            row: the row that each entity in `of` belongs to.
            of: the entities.
            rows: the number of rows.

        Returns:
            int64 [rows, groups].
        """
        # Each pair of a row and a group is encoded as one number, so one `bincount` counts all
        # pairs.
        index, group = self.expand(of)
        cell = row[index] * len(self.groups) + group
        return np.bincount(cell, minlength=rows * len(self.groups)).reshape(rows, len(self.groups))

    def new_to(self, users: Histories) -> np.ndarray:
        """Returns bool [B]: whether any target of a user has a category that is new to the user.

        A category is new if it does not occur in the user's history.
        """
        user_of_seen = np.repeat(np.arange(len(users)), users.seen_lengths)
        user_of_target = np.repeat(np.arange(len(users)), users.target_lengths)

        # It matters whether a category occurs, not how often.
        known_BJ = self.count(user_of_seen, users.seen, len(users)) > 0
        wanted_BJ = self.count(user_of_target, users.targets, len(users)) > 0
        return np.asarray((wanted_BJ & ~known_BJ).any(1))
