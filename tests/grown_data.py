"""An earlier state of a prepared data set: with its first items alone, as if the others had come later."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from edited_manifest import edit

from torchrec_priors.prepared.manifest import describe, read_manifest


def earlier_state(now: Path, then: Path, items: int) -> Path:
    """Writes to `then` what `now` was when it had its first `items` alone, without users who were too short then."""
    manifest = read_manifest(now)
    shutil.copytree(now, then)
    least, kept, part = 2 * manifest.horizon, [], then / "sequences" / "part-00000.parquet"
    table = pq.read_table(part)
    lists = [name for name in ("items", "timestamps", "events") if name in table.column_names]
    for row in table.to_pylist():
        there = [place for place, item in enumerate(row["items"]) if item < items]
        if len(there) > least:
            kept.append(row | {name: [row[name][place] for place in there] for name in lists})
            if "length" in row:
                kept[-1]["length"] = len(there)
    pq.write_table(pa.Table.from_pylist(kept, schema=table.schema), part)
    training = [item for row in kept for item in row["items"][:-least]]
    catalogue = pq.read_table(then / "items.parquet").slice(0, items)
    frequency = pa.array(np.bincount(training, minlength=items)).cast(
        catalogue.schema.field("frequency").type
    )
    place = catalogue.column_names.index("frequency")
    pq.write_table(catalogue.set_column(place, "frequency", frequency), then / "items.parquet")
    for file in (then / "priors").glob("*.parquet"):
        pairs = pq.read_table(file)
        if "item" in pairs.column_names:
            pq.write_table(pairs.filter(pa.compute.less(pairs["item"], items)), file)
        elif "user_id" in pairs.column_names:
            users = pa.array([row["user_id"] for row in kept], pairs.schema.field("user_id").type)
            pq.write_table(pairs.filter(pa.compute.is_in(pairs["user_id"], users)), file)
    (then / "manifest.json").unlink()
    files, content = describe(then, [file for file in then.rglob("*") if file.is_file()])
    counts = manifest.counts | {"items": items, "users": len(kept)}
    replace(manifest, counts=counts, files=files, content_sha256=content).write(then)
    return then


def grown_from(now: Path, then: Path, place: Path) -> Path:
    """Writes to `place` the data set `now` with a manifest that says that it has grown from `then`."""
    shutil.copytree(now, place)
    earlier = read_manifest(then)
    state = {
        "prepared_sha256": earlier.prepared_sha256,
        **{name: earlier.counts[name] for name in ("items", "users")},
    }
    edit(place, grown=[state])
    return place
