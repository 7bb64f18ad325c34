"""What `prepare` prints about a data set."""

from pathlib import Path

import numpy as np

from torchrec_priors.parquet import read_footer
from torchrec_priors.prepared.manifest import Manifest, PriorInfo


def summary(manifest: Manifest, folder: Path | None = None) -> str:
    """A few lines for people: counts, times (where the data set is in a `folder`), drops, priors."""
    counts = manifest.counts
    lines = [
        f"{manifest.name}: "
        + ", ".join(f"{counts[name]:,} {name}" for name in ("users", "items", "interactions")),
        *([] if folder is None else [f"times: {_times(manifest, folder)}"]),
        f"horizon {manifest.horizon}: {manifest.split}",
    ]
    dropped = {reason: number for reason, number in counts["dropped"].items() if number}
    lines += [f"dropped: {number:,} ({reason})" for reason, number in dropped.items()] or [
        "dropped: nothing"
    ]
    repaired = {what: number for what, number in counts.get("repaired", {}).items() if number}
    lines += [f"repaired: {number:,} ({what})" for what, number in repaired.items()]
    return "\n".join([*lines, *(prior_line(prior) for prior in manifest.priors)])


def prior_line(prior: PriorInfo) -> str:
    """Name, kind and largest groups of a prior."""
    shown = ", ".join(
        f"{name} {size:,}" for name, size in list(zip(prior.groups, prior.sizes, strict=True))[:5]
    )
    more = f", ... ({len(prior.groups)} groups)" if len(prior.groups) > 5 else ""
    return f"prior {prior.name} ({prior.kind}): {shown}{more}"


def _times(manifest: Manifest, folder: Path) -> str:
    """First and last day (UTC); from the statistics that Parquet keeps of every row group."""
    if not manifest.has_times:
        return "unknown, order alone"
    values: list[int] = []
    for info in manifest.files:
        if info.path.startswith("sequences/"):
            metadata = read_footer(folder / info.path).metadata
            for group in range(metadata.num_row_groups):
                columns = (
                    metadata.row_group(group).column(column)
                    for column in range(metadata.num_columns)
                )
                times = next(
                    column for column in columns if column.path_in_schema.startswith("timestamps")
                )
                values += [times.statistics.min, times.statistics.max]
    first, last = (
        np.datetime64(value, "ms").astype("datetime64[D]") for value in (min(values), max(values))
    )
    return f"{first} to {last}"
