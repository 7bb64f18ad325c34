"""Hundreds of raw labels an item -> about twenty groups, by a stated deterministic rule.

1. A label on more than half of the items says nothing and is dropped.
2. Of the rest, the most frequent are kept (ties: the smaller label first), as many as leave one group for the others.
3. Items with none of the kept labels form that last group.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

MOST_GROUPS = 20
_NEAR_UNIVERSAL = 0.5


def coarsen(
    labels: Mapping[int, Sequence[int]], most_groups: int = MOST_GROUPS
) -> dict[int, list[int]]:
    """The kept labels of every item; items of the last group have none.

    Args:
        labels: item -> its raw labels, each once.
        most_groups: groups in all, with the one of the others.

    Example:
        >>> coarsen({1: [7, 9], 2: [7, 5], 3: [7, 9], 4: [7], 5: [3]}, most_groups=2)
        {1: [9], 2: [], 3: [9], 4: [], 5: []}
    """
    counts = Counter(label for own in labels.values() for label in own)
    telling = [label for label, count in counts.items() if count <= _NEAR_UNIVERSAL * len(labels)]
    kept = set(sorted(telling, key=lambda label: (-counts[label], label))[: most_groups - 1])
    return {item: [label for label in own if label in kept] for item, own in labels.items()}
