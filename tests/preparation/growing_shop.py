"""A corpus for tests of appending, its raw files from rows, and what is in a data set whatever its numbers.

Files (Parquet): `log` (user_id, item_id, time, event), `items` (item_id, title, kind), `users` (user_id, age).
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from prepared_log import item_ids, items, labels, sequences

from torchrec_priors.preparation.build.long_histories import at_least
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.prepared.manifest import read_manifest

EVENTS = ("view", "like", "buy")
FILE = Path(__file__)


@dataclass(frozen=True)
class Options:
    min_history: int = 1
    met: bool = False
    times: bool = True


def load(raw, bad_rows, engine, options):
    number, text = pa.int64(), pa.string()
    log = engine.read_parquet(
        [raw / "log.parquet"],
        {"user_id": text, "item_id": number, "time": number, "event": number},
        bad_rows,
    )
    log = engine.keep_valid(log, log.event < len(EVENTS), bad_rows, "event", "must be known")
    log = at_least(log, options.min_history, engine, bad_rows)
    items = engine.read_parquet(
        [raw / "items.parquet"], {"item_id": number, "title": text, "kind": text}, bad_rows
    )
    users = engine.read_parquet([raw / "users.parquet"], {"user_id": text, "age": text}, bad_rows)
    return Corpus(
        name="shop",
        interactions=log.select(
            "user_id", "item_id", "order", timestamp=log.time, event=log.event.cast("int8")
        ),
        items=items.select("item_id", "title"),
        has_times=options.times,
        category_prior="kind",
        default_horizon=1,
        events=EVENTS,
        event_prior="event",
        item_priors=[Labels("kind", items.select("item_id", label="kind"), "no kind")],
        user_priors=[Labels("age", users.select("user_id", label="age"), "no age")],
        user_group="age",
        min_history=options.min_history,
        items_met=options.met,
    )


def write(folder, rows, *, more_items=(), more_users=()):
    """Raw files of a log of (user, item, ms, event); catalogue and users are those of the log, and more.

    A third of items and users has no label.
    """
    folder.mkdir(parents=True)
    columns = list(zip(*rows, strict=True)) or [[]] * 4
    kinds = {"user_id": pa.string(), "item_id": pa.int64(), "time": pa.int64(), "event": pa.int64()}
    log = {
        name: pa.array(values, kind)
        for (name, kind), values in zip(kinds.items(), columns, strict=True)
    }
    pq.write_table(pa.table(log), folder / "log.parquet")
    met = sorted({row[1] for row in rows} | set(more_items))
    kind = [f"kind {item % 5}" if item % 3 else None for item in met]
    table = pa.table(
        {
            "item_id": pa.array(met, pa.int64()),
            "title": pa.array([f"item {item}" for item in met], pa.string()),
            "kind": kind,
        }
    )
    pq.write_table(
        table.set_column(2, "kind", pa.array(kind, pa.string())), folder / "items.parquet"
    )
    users = sorted({row[0] for row in rows} | set(more_users))
    ages = pa.array(
        [f"age {sum(map(ord, user)) % 4}" if sum(map(ord, user)) % 3 else None for user in users]
    )
    pq.write_table(
        pa.table({"user_id": pa.array(users, pa.string()), "age": ages.cast(pa.string())}),
        folder / "users.parquet",
    )
    return folder


def content(folder):
    """All that a data set says, by original ids and names of groups."""
    manifest, ids = read_manifest(folder), item_ids(folder)
    eligible = pq.read_table(folder / "priors/event.eligible.parquet").to_pylist()
    groups = {prior.name: prior.groups for prior in manifest.priors}
    users = {}
    for file in sorted((folder / "sequences").glob("*.parquet")):
        rows = pq.read_table(file).drop_columns(["items", "timestamps", "events"]).to_pylist()
        assert [row["user_id"] for row in rows] == sorted(row["user_id"] for row in rows)
        users |= {
            row["user_id"]: {**row, "user_group": groups["age"][row["user_group"]]} for row in rows
        }
    return {
        "sequences": sequences(folder),
        "users": users,
        "items": {item: {**row, "item": None} for item, row in items(folder).items()},
        "labels": {name: labels(folder, name) for name in ("kind", "age")},
        "eligible": {(ids[row["item"]], groups["event"][row["group"]]) for row in eligible},
        "sizes": {
            prior.name: {
                name: size for name, size in zip(prior.groups, prior.sizes, strict=True) if size
            }
            for prior in manifest.priors
            if not prior.made_by
        },
        "counts": {name: value for name, value in manifest.counts.items() if name != "repaired"},
        "split": manifest.split,
    }


def relabel(file, column, labels):
    """Gives entities of raw items or users other labels."""
    table = pq.read_table(file)
    found = [
        labels.get(key, old)
        for key, old in zip(table[0].to_pylist(), table[column].to_pylist(), strict=True)
    ]
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(found, pa.string())), file)
