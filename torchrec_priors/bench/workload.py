"""Writes a synthetic prepared data set of a shape: items, priors, and one history per window.

Its files are like those of `prepare`. Popularity follows Zipf's law. The lengths of contexts are
like those of windows of long-tailed histories: many contexts are full, and the lengths of the
others are evenly distributed on a logarithmic scale.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from torchrec_priors.bench.shapes import Shape
from torchrec_priors.parquet import write_table
from torchrec_priors.prepared.manifest import Manifest, PriorInfo, describe

_FULL = 0.3  # share of the contexts that are full
_SHORTEST = 20  # the shortest contexts are a twentieth of a full one
_EVENTS = ("view", "like", "cart", "offer", "buy start", "buy")
_EVENT_SHARES = np.array([0.806, 0.160, 0.0125, 0.0035, 0.009, 0.009])  # about MerRec's
_EVENT_ITEMS = np.array([1.0, 0.6, 0.2, 0.08, 0.1, 0.1])  # share of the items that have the event


def make_workload(shape: Shape, folder: Path, seed: int = 0) -> None:
    """Writes the data set into `folder`."""
    random = np.random.default_rng([seed, 1])
    folder.mkdir(parents=True)
    (folder / "priors").mkdir()
    (folder / "sequences").mkdir()

    item = np.arange(shape.items, dtype=np.int32)
    frequency = np.floor(shape.items / (1.0 + random.permutation(shape.items))).astype(np.int64)
    columns = {"item": item, "item_id": item.astype(np.int64), "frequency": frequency}
    write_table(
        pa.table({**columns, "title": pa.array([""] * shape.items)}), folder / "items.parquet"
    )

    lengths = context_lengths(shape)
    interactions = int(lengths.sum()) + shape.sequences
    items = _by_popularity(frequency, interactions, random)
    # Events have a separate generator, so they are the same for every catalogue.
    event_random = np.random.default_rng([seed, 2])
    events = event_random.choice(len(_EVENTS), interactions, p=_EVENT_SHARES).astype(np.int8)
    priors = _priors(shape, folder, random, events)

    # A history is a context and one more item, the last target.
    bounds = np.cumsum([0, *(lengths + 1)]).astype(np.int32)
    lists = {
        "items": pa.ListArray.from_arrays(bounds, items.astype(np.int32)),
        "timestamps": pa.ListArray.from_arrays(
            bounds, np.arange(interactions, dtype=np.int64) * 60_000
        ),
        "events": pa.ListArray.from_arrays(bounds, events),
    }
    users = pa.array(np.arange(shape.sequences))
    write_table(pa.table({"user_id": users, **lists}), folder / "sequences" / "part-00000.parquet")

    files, whole = describe(folder, list(folder.rglob("*.parquet")))
    # No interactions are held out, because nothing is evaluated.
    Manifest(
        name=f"bench-{shape.name}",
        horizon=1,
        counts={"users": shape.sequences, "items": shape.items, "interactions": interactions},
        split="none",
        events=list(_EVENTS),
        category_prior="category",
        user_group=None,
        priors=priors,
        settings={"seed": seed},
        files=files,
        content_sha256=whole,
    ).write(folder)


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


def _priors(
    shape: Shape, folder: Path, random: np.random.Generator, events: np.ndarray
) -> list[PriorInfo]:
    """Writes `category` and all priors that the tree names."""
    levels = [level for level in shape.tree if ":" not in level]
    infos = []
    for name in dict.fromkeys(["category", *levels]):
        if name == "event":
            infos.append(_event_prior(shape, folder, random, events))
        else:
            infos.append(_item_prior(name, shape, folder, random))
    return infos


def _event_prior(
    shape: Shape, folder: Path, random: np.random.Generator, events: np.ndarray
) -> PriorInfo:
    """Writes a group for each event, and the items that can have the event."""
    codes = np.arange(len(_EVENTS))
    groups = {"event": pa.array(codes, pa.int8()), "group": pa.array(codes, pa.int32())}
    write_table(pa.table(groups), folder / "priors/event.parquet")

    eligible = random.random((shape.items, len(_EVENTS))) < _EVENT_ITEMS
    _write_pairs(folder / "priors/event.eligible.parquet", eligible)
    sizes = np.bincount(events, minlength=len(_EVENTS)).tolist()
    return PriorInfo("event", "event", list(_EVENTS), sizes, eligible=True)


def _item_prior(name: str, shape: Shape, folder: Path, random: np.random.Generator) -> PriorInfo:
    """Writes groups of items.

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
    _write_pairs(folder / f"priors/{name}.parquet", member)

    kind = "graph" if name == "community" else "item"
    group_names = [f"{name} {group}" for group in range(groups)]
    return PriorInfo(name, kind, group_names, member.sum(0).tolist())


def _write_pairs(file: Path, member: np.ndarray) -> None:
    """Writes all pairs of an item and a group that contains it."""
    item, group = np.nonzero(member)
    write_table(pa.table({"item": item.astype(np.int32), "group": group.astype(np.int32)}), file)
