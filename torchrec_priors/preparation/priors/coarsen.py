"""Reduces hundreds of raw labels of items to about twenty groups, by a deterministic rule.

1. A label that more than half of the items have is dropped, because it hardly distinguishes them.
2. Of the other labels, the most frequent are kept. Their number is one less than the number of
   groups. Of equally frequent labels, the one with the smaller number is kept.
3. Items without any of the kept labels form the last group.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

MOST_GROUPS = 20
_NEAR_UNIVERSAL = 0.5


def coarsen(
    labels: Mapping[int, Sequence[int]], most_groups: int = MOST_GROUPS
) -> dict[int, list[int]]:
    """Returns the kept labels of every item. Items in the last group have no label.

    Args:
        labels: the raw labels of each item, without repeats.
        most_groups: the maximum number of groups, including the last one.

    Example:
        >>> coarsen({1: [7, 9], 2: [7, 5], 3: [7, 9], 4: [7], 5: [3]}, most_groups=2)
        {1: [9], 2: [], 3: [9], 4: [], 5: []}
    """
    counts = Counter(label for of_item in labels.values() for label in of_item)
    most_items = _NEAR_UNIVERSAL * len(labels)
    candidates = [label for label, count in counts.items() if count <= most_items]

    # Of equally frequent labels, the one with the smaller number comes first, so the result does
    # not depend on the order of the items.
    by_frequency = sorted(candidates, key=lambda label: (-counts[label], label))
    kept = set(by_frequency[: most_groups - 1])
    return {item: [label for label in of_item if label in kept] for item, of_item in labels.items()}
