"""Defines the settings of priors that are communities in the training log.

A corpus may request such priors (`Corpus.computed_priors`).
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torchrec_priors.errors import UserError

# The ways to compute the weight of an edge between two items. Of U users, a interacted with one
# item, b with the other and c with both. (If the nodes are users, users and items change places.)
# - shared: c. Popular nodes have the heaviest edges.
# - cosine: c / sqrt(a b). Two nodes of a single user have the heaviest edge.
# - pmi: log(c U / (a b)), the pointwise mutual information. It measures how much more often both
#   occur together than by chance. Pairs with a PMI of at most 0 have no edge.
# - equal: 1.
WEIGHTS = ("shared", "cosine", "pmi", "equal")


@dataclass(frozen=True)
class _Communities:
    """The settings of both kinds of communities.

    Attributes:
        name: the name of the prior.
        last: how many of each user's latest training interactions are used. If None, all are.
        weights: how the weight of an edge is computed from what its ends share; see `WEIGHTS`.
        neighbours: the number of strongest neighbours that each node keeps. An edge stays if at
            least one of its ends keeps it. If None, all edges stay.
        resolution: the resolution of modularity. A higher resolution gives more communities. It is
            1 if neither `resolution` nor `groups` is given.
        groups: the requested number of groups, including the remainder if there is one.
        join: whether communities that are too small or too many are joined with those that they
            share most with. Otherwise small communities form one group, and for `groups` a
            resolution that gives this number is searched for.
        min_size: the minimum number of members of a community.
        seed: the seed of the order in which Leiden visits nodes, and of random draws.
    """

    name: str
    last: int | None = None
    weights: str = "pmi"
    neighbours: int | None = None
    resolution: float | None = None
    groups: int | None = None
    join: bool = True
    min_size: int = 10
    seed: int = 0

    kind: ClassVar[str]
    # The name of the column of original ids.
    entity: ClassVar[str]

    def __post_init__(self) -> None:
        """Raises UserError if a number is out of range or two settings contradict each other."""
        for option in ("last", "neighbours", "min_size"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise UserError(f"--{option.replace('_', '-')} must be at least 1, not {value}")

        if self.groups is not None and self.groups < 2:
            raise UserError(f"--groups must be at least 2, not {self.groups}")
        if self.weights not in WEIGHTS:
            raise UserError(f"--weights must be one of {', '.join(WEIGHTS)}, not '{self.weights}'")
        if self.groups is not None and self.resolution is not None and not self.join:
            raise UserError(
                "--groups and --resolution: give one of them, as --no-join looks for the resolution"
            )
        if self.resolution is not None and not 0 < self.resolution < float("inf"):
            raise UserError(f"--resolution must be a positive number, not {self.resolution}")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed must be in [0, 2^31), not {self.seed}")

    def recorded(self) -> dict[str, Any]:
        """Returns the settings as the manifest records them."""
        values = asdict(self)
        del values["name"]
        return {"kind": self.kind, **values}


@dataclass(frozen=True)
class GraphPrior(_Communities):
    """Communities of items. An edge connects two items if a user interacted with both."""

    last: int | None = 50
    kind: ClassVar[str] = "graph"
    entity: ClassVar[str] = "item_id"


@dataclass(frozen=True)
class UserPrior(_Communities):
    """Communities of users. An edge connects two users if both interacted with the same item.

    Nearly all pairs of users have an item in common. Without the limit `neighbours`, the graph is
    too dense for communities.

    Attributes:
        users_per_item: the maximum number of users that an item connects. They are drawn at random.
    """

    neighbours: int | None = 20
    users_per_item: int = 2000
    kind: ClassVar[str] = "user"
    entity: ClassVar[str] = "user_id"

    def __post_init__(self) -> None:
        """Raises UserError if a number is out of range or two settings contradict each other."""
        super().__post_init__()
        if self.users_per_item < 2:
            raise UserError(f"--users-per-item must be at least 2, not {self.users_per_item}")
