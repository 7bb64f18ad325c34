"""In-group negatives: every rank draws the same positions from a counter and serves those that fall on its rows.

Item set s, in row order, is a list of |Omega_s| rows of which a rank owns one contiguous piece (row-wise shards are
contiguous). A draw is a position in that list; the owner alone turns it into a row id. So the union of what the ranks
serve is a uniform sample of Omega_s, the same for any number of ranks, every rank knows who serves which draw without a
message, and no rank holds a list of other ranks' rows.
"""

import math
from dataclasses import dataclass

import numpy as np

from torchrec_priors.errors import UserError

_STREAM = 0x6E65676174697665  # tells these draws from other uses of the seed


@dataclass
class NegativesConfig:
    """In-group negatives.

    Attributes:
        per_set: draws a step for each item set (each group of an item prior; all items where there is none). A set of
            at most this many items is taken whole: an exact softmax.
        logq: whether the sum over negatives stands for the sum over all eligible items (see `NegativeSets.shifts_S`).
    """

    per_set: int = 1024
    logq: bool = False

    def check(self) -> None:
        if self.per_set < 1:
            raise UserError(f"negatives.per_set = {self.per_set} must be at least 1")


@dataclass(frozen=True)
class Draw:
    """Negatives of one step. Slots are ordered by item set, then by position, so ids ascend within a set.

    Attributes:
        own_ids: int64 row ids of the slots this rank serves, in slot order.
        slots_W: for each rank, the slots it serves.
        counts_S: slots of each item set.
        shifts_S: log(|Omega_s| / slots), 0 where the whole set is taken.
    """

    own_ids: np.ndarray
    slots_W: list[np.ndarray]
    counts_S: list[int]
    shifts_S: list[float]


class GroupSampler:
    """Uniform draws with replacement; a set of at most `per_set` items is taken whole, each item once.

    Example:
        >>> sampler = GroupSampler([np.array([0, 2]), np.array([3])], np.array([[2, 1]]), rank=0, per_set=8, seed=0)
        >>> sampler.draw(step=0).own_ids.tolist()
        [0, 2, 3]
    """

    def __init__(self, own: list[np.ndarray], owned_WS: np.ndarray, *, rank: int, per_set: int, seed: int) -> None:
        """
        Args:
            own: for each item set, the rows this rank owns, ascending.
            owned_WS: how many rows of each set each rank owns.
            per_set: draws a set and step.
        """
        assert [len(rows) for rows in own] == owned_WS[rank].tolist(), "own rows and counts differ"
        self.own, self.rank, self.per_set, self.seed = own, rank, per_set, seed
        self._first_WS = np.zeros((len(owned_WS) + 1, len(own)), np.int64)
        np.cumsum(owned_WS, axis=0, out=self._first_WS[1:])
        self.set_sizes = self._first_WS[-1]
        self._counts = np.minimum(self.set_sizes, per_set)

    def draw(self, step: int) -> Draw:
        """The negatives of global batch `step`."""
        random = np.random.Generator(np.random.Philox(key=[self.seed ^ _STREAM, step]))
        own_ids, slots_W = [], [[] for _ in range(len(self._first_WS) - 1)]  # type: ignore[var-annotated]
        first_slot = 0
        for number, (size, count) in enumerate(zip(self.set_sizes, self._counts, strict=True)):
            position = np.arange(size) if size <= self.per_set else np.sort(random.integers(0, size, count))
            bounds = np.searchsorted(position, self._first_WS[:, number])
            for rank, slots in enumerate(slots_W):
                slots.append(np.arange(first_slot + bounds[rank], first_slot + bounds[rank + 1]))
            mine = position[bounds[self.rank] : bounds[self.rank + 1]] - self._first_WS[self.rank, number]
            own_ids.append(self.own[number][mine])
            first_slot += count
        shifts = [
            math.log(size / count) if count else 0.0 for size, count in zip(self.set_sizes, self._counts, strict=True)
        ]
        return Draw(
            own_ids=np.concatenate(own_ids).astype(np.int64),
            slots_W=[np.concatenate(slots) for slots in slots_W],
            counts_S=self._counts.tolist(),
            shifts_S=shifts,
        )
