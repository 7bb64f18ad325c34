"""The best list in which given groups have their least numbers of items.

Of all lists of k items that have them, it is the first in the order of a dictionary: the best item is passed over only
where no list with it can have them, then the second best, and so on. For one group, and for groups that are disjoint
or inside one another, this is also the list of the largest sum of scores.

Items that are in the same groups form a cell. A set of groups is written as the bits of a number, its mask.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Candidate:
    """An item that may be chosen."""

    score: float
    row: int
    path: int


Cells = dict[int, list[Candidate]]  # by mask; best first, ties by row


def choose(cells: Cells, need: Sequence[int], k: int) -> tuple[list[Candidate], list[int]]:
    """The best list and the needs it meets.

    Args:
        cells: the k best items of each, or all where there are fewer.
        need: how many items of each group are asked for. Where there are not so many, or not within k beside what the
            groups before need, as many as can be.
        k: length of the list; it is shorter where there are fewer items.
    """
    left = {mask: len(items) for mask, items in cells.items() if items}
    met: list[int] = []
    for wanted in need:
        others = len(need) - len(met) - 1
        met.append(next(n for n in range(wanted, -1, -1) if _fits((*met, n, *[0] * others), k, left)))
    open_need = tuple(met)
    chosen: list[Candidate] = []
    place = dict.fromkeys(left, 0)
    while left and len(chosen) < k:
        best = min(left, key=lambda mask: (-cells[mask][place[mask]].score, cells[mask][place[mask]].row))
        after = {**left, best: left[best] - 1}
        remaining = _reduced(open_need, best, 1)
        if not _fits(remaining, k - len(chosen) - 1, after):
            del left[best]  # nor will any of its items ever fit again
            continue
        chosen.append(cells[best][place[best]])
        place[best] += 1
        open_need = remaining
        left = {mask: count for mask, count in after.items() if count}
    return chosen, met


def fewest(need: tuple[int, ...], left: dict[int, int]) -> float:
    """How many items meet the needs at least; infinity where all together do not.

    Args:
        left: how many items each cell has.

    Example:
        >>> fewest((2, 2), {0b01: 9, 0b10: 9, 0b11: 1})
        3
    """
    wanted = sum(1 << group for group, count in enumerate(need) if count)
    useful: dict[int, int] = {}
    for mask, count in left.items():
        if mask & wanted:
            useful[mask & wanted] = useful.get(mask & wanted, 0) + count
    most = {mask: min(count, _most(need, mask)) for mask, count in useful.items()}
    ordered = sorted(most.items(), key=lambda cell: (-cell[0].bit_count(), cell[0]))
    return _fewest(need, wanted, tuple(ordered))


@lru_cache(maxsize=1 << 16)
def _fewest(need: tuple[int, ...], wanted: int, ordered: tuple[tuple[int, int], ...]) -> float:
    """`fewest` of needs in the groups of `wanted` and cells inside them, those of most groups first."""
    if not ordered:
        return 0 if not wanted else math.inf
    (mask, count), *others = ordered
    if mask.bit_count() == 1:  # and so are all others
        short = sum(need) - sum(count for _, count in ordered)
        return sum(need) if not short else math.inf
    takes = [count] if mask == wanted else range(count, -1, -1)  # none is better than one of all groups
    return min(taken + fewest(_reduced(need, mask, taken), dict(others)) for taken in takes)


def _fits(need: tuple[int, ...], slots: int, left: dict[int, int]) -> bool:
    return not any(need) or (max(need) <= slots and fewest(need, left) <= slots)


def _most(need: tuple[int, ...], mask: int) -> int:
    return max(count for group, count in enumerate(need) if mask >> group & 1)


def _reduced(need: tuple[int, ...], mask: int, items: int) -> tuple[int, ...]:
    return tuple(max(0, count - items) if mask >> group & 1 else count for group, count in enumerate(need))
