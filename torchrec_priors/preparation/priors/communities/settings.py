"""Settings of priors that are communities of the training log.

A corpus may request some of them (`Corpus.computed_priors`).
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torchrec_priors.errors import UserError


@dataclass(frozen=True)
class _Communities:
    """Settings that both kinds share.

    Attributes:
        name: Name of the prior.
        last: Number of training interactions of a user that count, the latest. None counts all.
        weighted: Whether the weight of an edge is how much its ends share. Otherwise every edge
            has weight 1.
        neighbours: Number of strongest neighbours that each end keeps. An edge stays if either end
            keeps it. None keeps all.
        resolution: Resolution of modularity: the larger, the more communities. It is 1 if neither
            this nor `groups` is given.
        groups: Number of groups in the end. The resolution is searched for.
        min_size: Communities of fewer members are merged into one group.
        seed: Seed of the order in which Leiden visits nodes, and of what is drawn at random.
    """

    name: str
    last: int | None = None
    weighted: bool = True
    neighbours: int | None = None
    resolution: float | None = None
    groups: int | None = None
    min_size: int = 10
    seed: int = 0

    kind: ClassVar[str]
    entity: ClassVar[str]  # the column of original ids

    def __post_init__(self) -> None:
        """Raises UserError if a number is out of range or two settings contradict each other."""
        for option in ("last", "neighbours", "min_size"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise UserError(f"--{option.replace('_', '-')} must be at least 1, not {value}")

        if self.groups is not None and self.groups < 2:
            raise UserError(f"--groups must be at least 2, not {self.groups}")
        if self.groups is not None and self.resolution is not None:
            raise UserError(
                "--groups and --resolution: give one of them, as --groups looks for the resolution"
            )
        if self.resolution is not None and not 0 < self.resolution < float("inf"):
            raise UserError(f"--resolution must be a positive number, not {self.resolution}")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed must be in [0, 2^31), not {self.seed}")

    def recorded(self) -> dict[str, Any]:
        """Returns the settings as the manifest keeps them."""
        values = asdict(self)
        del values["name"]
        return {"kind": self.kind, **values}


@dataclass(frozen=True)
class GraphPrior(_Communities):
    """Communities of items: an edge joins two items that one user engaged with."""

    last: int | None = 50
    kind: ClassVar[str] = "graph"
    entity: ClassVar[str] = "item_id"


@dataclass(frozen=True)
class UserPrior(_Communities):
    """Communities of users: an edge joins two users who engaged with one item.

    Nearly all users share something. Without `neighbours` such a graph is too dense to fall into
    communities.

    Attributes:
        users_per_item: Most users of an item that are joined by it, drawn at random.
    """

    neighbours: int | None = 20
    users_per_item: int = 2000
    kind: ClassVar[str] = "user"
    entity: ClassVar[str] = "user_id"

    def __post_init__(self) -> None:
        """Raises UserError like the base class, and if `users_per_item` is out of range."""
        super().__post_init__()
        if self.users_per_item < 2:
            raise UserError(f"--users-per-item must be at least 2, not {self.users_per_item}")
