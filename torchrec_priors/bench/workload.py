"""Writes a drawn log as a prepared data set; its files are like those of `prepare`."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from torchrec_priors.bench.drawn_log import EVENTS, DrawnLog, draw_log
from torchrec_priors.bench.shapes import Shape
from torchrec_priors.parquet import write_table
from torchrec_priors.prepared.manifest import Manifest, PriorInfo, describe


def make_workload(shape: Shape, folder: Path, seed: int = 0) -> None:
    """Writes the data set into `folder`."""
    log = draw_log(shape, seed)
    folder.mkdir(parents=True)
    (folder / "priors").mkdir()
    (folder / "sequences").mkdir()

    item = np.arange(shape.items, dtype=np.int32)
    columns = {"item": item, "item_id": item.astype(np.int64), "frequency": log.frequency}
    write_table(
        pa.table({**columns, "title": pa.array([""] * shape.items)}), folder / "items.parquet"
    )
    priors = [_prior(name, log, folder) for name in log.member_of]

    interactions = len(log.items)
    bounds = np.cumsum([0, *(log.contexts + 1)]).astype(np.int32)
    lists = {
        "items": pa.ListArray.from_arrays(bounds, log.items.astype(np.int32)),
        "timestamps": pa.ListArray.from_arrays(
            bounds, np.arange(interactions, dtype=np.int64) * 60_000
        ),
        "events": pa.ListArray.from_arrays(bounds, log.events),
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
        events=list(EVENTS),
        category_prior="category",
        user_group=None,
        priors=priors,
        settings={"seed": seed},
        files=files,
        content_sha256=whole,
    ).write(folder)


def _prior(name: str, log: DrawnLog, folder: Path) -> PriorInfo:
    """Writes a prior's files."""
    if name == "event":
        return _event_prior(log, folder)
    member = log.member_of[name]
    _write_pairs(folder / f"priors/{name}.parquet", member)

    kind = "graph" if name == "community" else "item"
    group_names = [f"{name} {group}" for group in range(member.shape[1])]
    return PriorInfo(name, kind, group_names, member.sum(0).tolist())


def _event_prior(log: DrawnLog, folder: Path) -> PriorInfo:
    """Writes a group for each event, and the items that can have the event."""
    codes = np.arange(len(EVENTS))
    groups = {"event": pa.array(codes, pa.int8()), "group": pa.array(codes, pa.int32())}
    write_table(pa.table(groups), folder / "priors/event.parquet")

    _write_pairs(folder / "priors/event.eligible.parquet", log.member_of["event"])
    sizes = np.bincount(log.events, minlength=len(EVENTS)).tolist()
    return PriorInfo("event", "event", list(EVENTS), sizes, eligible=True)


def _write_pairs(file: Path, member: np.ndarray) -> None:
    """Writes all pairs of an item and a group that contains it."""
    item, group = np.nonzero(member)
    write_table(pa.table({"item": item.astype(np.int32), "group": group.astype(np.int32)}), file)
