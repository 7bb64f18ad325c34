"""Draws a synthetic log of a shape: items, groups of items, and one history per window.

Popularity follows Zipf's law. The lengths of contexts are like those of windows of long-tailed
histories: many contexts are full, and the lengths of the others are evenly distributed on a
logarithmic scale.

Only NumPy is needed. `workload.py` writes a log as a prepared data set.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.bench.shapes import Shape

_FULL = 0.3  # share of the contexts that are full
_SHORTEST = 20  # the shortest contexts are a twentieth of a full one
EVENTS = ("view", "like", "cart", "offer", "buy start", "buy")
_EVENT_SHARES = np.array([0.806, 0.160, 0.0125, 0.0035, 0.009, 0.009])  # about MerRec's
_EVENT_ITEMS = np.array([1.0, 0.6, 0.2, 0.08, 0.1, 0.1])  # share of the items that have the event


@dataclass(frozen=True)
class DrawnLog:
    """A log of a shape.

    Attributes:
        frequency: int64, the weight with which each item is drawn.
        contexts: int64, the length of each context. A history is a context and one more item, the
            last target.
        items: int64, the items of all histories, one after another.
        events: int8, the event codes of these items.
        member_of: name of a prior -> bool, by item and group: the items of each group. For the
            prior `event`, the items that can have each event.
    """

    frequency: np.ndarray
    contexts: np.ndarray
    items: np.ndarray
    events: np.ndarray
    member_of: dict[str, np.ndarray]


def draw_log(shape: Shape, seed: int = 0) -> DrawnLog:
    """Draws a log; it depends only on the shape and the seed."""
    random = np.random.default_rng([seed, 1])
    frequency = np.floor(shape.items / (1.0 + random.permutation(shape.items))).astype(np.int64)

    contexts = context_lengths(shape)
    interactions = int(contexts.sum()) + shape.sequences
    items = _by_popularity(frequency, interactions, random)
    # Events have a separate generator, so they are the same for every catalogue.
    event_random = np.random.default_rng([seed, 2])
    events = event_random.choice(len(EVENTS), interactions, p=_EVENT_SHARES).astype(np.int8)

    levels = [level for level in shape.tree if ":" not in level]
    member_of = {}
    for name in dict.fromkeys(["category", *levels]):
        if name == "event":
            member_of[name] = random.random((shape.items, len(EVENTS))) < _EVENT_ITEMS
        else:
            member_of[name] = _groups_of_items(name, shape, random)
    return DrawnLog(frequency, contexts, items, events, member_of)


def context_lengths(shape: Shape) -> np.ndarray:
    """Returns the lengths of contexts, int64 [sequences], in a fixed random order."""
    full = round(_FULL * shape.sequences)
    quantile = (np.arange(shape.sequences - full) + 0.5) / (shape.sequences - full)
    shortest = max(2, shape.context // _SHORTEST)
    others = shortest * (shape.context / shortest) ** quantile
    lengths = np.concatenate([np.full(full, shape.context), np.rint(others).astype(np.int64)])
    return np.random.default_rng(0).permutation(lengths)


def _by_popularity(frequency: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Draws items with probabilities proportional to their frequencies."""
    # The numbers in [0, sum of frequencies) are divided among the items by frequency.
    ends = np.cumsum(frequency)
    return np.searchsorted(ends, random.integers(0, ends[-1], draws), side="right")


def _groups_of_items(name: str, shape: Shape, random: np.random.Generator) -> np.ndarray:
    """Returns the groups of each item, bool [items, groups].

    Each item has one group by Zipf's law, and may have more, so that the average is `labels`.
    """
    groups = 2
    more = 0.0
    if name in shape.tree:
        groups = shape.groups
        more = (shape.labels - 1.0) / max(groups - 1, 1)

    member = np.zeros((shape.items, groups), bool)
    share = 1.0 / np.arange(1, groups + 1)
    first = random.choice(groups, shape.items, p=share / share.sum())
    member[np.arange(shape.items), first] = True
    member |= random.random(member.shape) < more
    return member
