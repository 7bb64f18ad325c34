"""A prepared data set as plain Python, for comparison with what its raw files say."""

from collections import defaultdict

import pyarrow.parquet as pq

from torchrec_priors.prepared.manifest import read_manifest


def sequences(folder):
    """user -> [(original item, ms, event name or None)]"""
    ids = item_ids(folder)
    events = read_manifest(folder).events
    found = {}
    for file in sorted((folder / "sequences").glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            names = (
                [events[code] for code in row["events"]] if events else [None] * len(row["items"])
            )
            items = [ids[item] for item in row["items"]]
            found[row["user_id"]] = list(zip(items, row["timestamps"], names, strict=True))
    return found


def item_ids(folder):
    """row id -> original id"""
    table = pq.read_table(folder / "items.parquet", columns=["item", "item_id"]).to_pydict()
    return dict(zip(table["item"], table["item_id"], strict=True))


def items(folder):
    """original id -> attributes"""
    return {row["item_id"]: row for row in pq.read_table(folder / "items.parquet").to_pylist()}


def labels(folder, prior):
    """original id of an item or user -> names of its groups"""
    info = read_manifest(folder).prior(prior)
    ids = item_ids(folder) if info.kind in ("item", "graph") else None
    found = defaultdict(set)
    for row in pq.read_table(folder / info.path).to_pylist():
        entity = row["user_id"] if ids is None else ids[row["item"]]
        found[entity].add(info.groups[row["group"]])
    return dict(found)


def in_time(rows, least):
    """user -> [(item, ms, event)] in order of (ms, place among the rows), of users with `least` or more.

    Args:
        rows: (user, item, ms, event) in raw order.
    """
    histories = defaultdict(list)
    for place, (user, item, time, event) in enumerate(rows):
        histories[user].append((time, place, item, event))
    return {
        user: [(item, time, event) for time, _, item, event in sorted(own)]
        for user, own in histories.items()
        if len(own) >= least
    }
