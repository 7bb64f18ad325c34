"""Divides work among the ranks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """A rank's share of work that is divided among all ranks, such as the windows of a batch.

    Attributes:
        rank: the number of the rank.
        world: the number of all ranks.
    """

    rank: int = 0
    world: int = 1

    def of(self, size: int) -> slice:
        """Returns this rank's slice of `size` things; the lengths of slices differ by at most 1."""
        return slice(size * self.rank // self.world, size * (self.rank + 1) // self.world)
