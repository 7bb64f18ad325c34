"""A prepared data set of a shape: synthetic items, priors and one history per window.

It is written as `prepare` would write it. Popularity follows Zipf's law. Contexts are as in windows
of long-tailed histories: many are full, the others equally likely in every octave of length.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from torchrec_priors.bench.shapes import Shape
from torchrec_priors.parquet import write_table
from torchrec_priors.prepared.manifest import Manifest, PriorInfo, describe

_FULL = 0.3  # share of the contexts that are full
_SHORTEST = 20  # the shortest of the others are this part of the context: a twentieth
_EVENTS = ("view", "like", "cart", "offer", "buy start", "buy")
_EVENT_SHARES = np.array([0.806, 0.160, 0.0125, 0.0035, 0.009, 0.009])  # about MerRec's
_EVENT_ITEMS = np.array([1.0, 0.6, 0.2, 0.08, 0.1, 0.1])  # share of the items that saw the event


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
    # A generator of their own, so the events are the same for every catalogue.
    of_events = np.random.default_rng([seed, 2])
    events = of_events.choice(len(_EVENTS), interactions, p=_EVENT_SHARES).astype(np.int8)
    priors = _priors(shape, folder, random, events)

    # A history is its context and one item more, the last target.
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
    # No interactions are held out: a workload is only trained on, or searched.
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
    """Returns int64 [sequences], the same for every seed, with long and short ones mixed."""
    full = round(_FULL * shape.sequences)
    quantile = (np.arange(shape.sequences - full) + 0.5) / (shape.sequences - full)
    shortest = max(2, shape.context // _SHORTEST)
    others = shortest * (shape.context / shortest) ** quantile
    lengths = np.concatenate([np.full(full, shape.context), np.rint(others).astype(np.int64)])
    return np.random.default_rng(0).permutation(lengths)


def _by_popularity(frequency: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    # An item has as many numbers of [0, sum) as interactions.
    ends = np.cumsum(frequency)
    return np.searchsorted(ends, random.integers(0, ends[-1], draws), side="right")


def _priors(
    shape: Shape, folder: Path, random: np.random.Generator, events: np.ndarray
) -> list[PriorInfo]:
    """Writes the priors that the tree names, and always `category`."""
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
    """Writes a group for each event, and the items that each of them can have."""
    codes = np.arange(len(_EVENTS))
    groups = {"event": pa.array(codes, pa.int8()), "group": pa.array(codes, pa.int32())}
    write_table(pa.table(groups), folder / "priors/event.parquet")

    eligible = random.random((shape.items, len(_EVENTS))) < _EVENT_ITEMS
    _write_pairs(folder / "priors/event.eligible.parquet", eligible)
    sizes = np.bincount(events, minlength=len(_EVENTS)).tolist()
    return PriorInfo("event", "event", list(_EVENTS), sizes, eligible=True)


def _item_prior(name: str, shape: Shape, folder: Path, random: np.random.Generator) -> PriorInfo:
    """Writes groups of items: one for each item by Zipf's law, and further ones up to `labels`."""
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
    item, group = np.nonzero(member)
    write_table(pa.table({"item": item.astype(np.int32), "group": group.astype(np.int32)}), file)
