"""Which part of what all ranks do together is this rank's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Which part of every global batch is ours."""

    rank: int = 0
    world: int = 1

    def of(self, size: int) -> slice:
        return slice(size * self.rank // self.world, size * (self.rank + 1) // self.world)
