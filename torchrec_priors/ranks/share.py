"""Which part of common work is this rank's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """This rank's part of every global batch."""

    rank: int = 0
    world: int = 1

    def of(self, size: int) -> slice:
        """This rank's slice of `size` things; slices of ranks differ by one at most."""
        return slice(size * self.rank // self.world, size * (self.rank + 1) // self.world)
