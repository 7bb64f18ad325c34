"""Describes a data set in the lines that `prepare` prints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from torchrec_priors.parquet import read_footer
from torchrec_priors.prepared.manifest import Manifest, PriorInfo

# This key in the manifest's settings says in lines for users how tables were read.
UNDERSTOOD = "understood"
# The number of groups of a prior that are printed.
_GROUPS = 5


def summary(manifest: Manifest, folder: Path | None = None) -> str:
    """Describes a data set for users in a few lines.

    The lines give the counts, the first and last day, dropped and repaired rows, and the priors.

    Args:
        folder: the folder of the data set. If None, the days are left out.
    """
    counts = manifest.counts
    totals = ", ".join(f"{counts[name]:,} {name}" for name in ("users", "items", "interactions"))
    lines = [f"{manifest.name}: {totals}"]
    if folder is not None:
        lines.append(f"times: {_times(manifest, folder)}")
    lines.append(f"horizon {manifest.horizon}: {manifest.split}")

    dropped = {reason: number for reason, number in counts["dropped"].items() if number}
    lines += [f"dropped: {number:,} ({reason})" for reason, number in dropped.items()]
    if not dropped:
        lines.append("dropped: nothing")

    # Manifests of earlier versions have no counts of repairs.
    repaired = {problem: number for problem, number in counts.get("repaired", {}).items() if number}
    lines += [f"repaired: {number:,} ({problem})" for problem, number in repaired.items()]
    lines += [prior_line(prior) for prior in manifest.priors]
    return "\n".join(lines)


def understood(manifest: Manifest) -> list[str]:
    """Returns the lines that say how the tables of a data set were read; none for a corpus."""
    lines: list[str] = manifest.settings.get(UNDERSTOOD, [])
    return lines


def prior_line(prior: PriorInfo) -> str:
    """Describes a prior in one line: its name, its kind and its first groups that are not empty.

    The first groups are the largest ones, unless the data set has grown.
    """
    groups = [(name, size) for name, size in zip(prior.groups, prior.sizes, strict=True) if size]
    first = ", ".join(f"{name} {size:,}" for name, size in groups[:_GROUPS])
    more = f", ... ({len(groups)} groups)" if len(groups) > _GROUPS else ""
    return f"prior {prior.name} ({prior.kind}): {first}{more}"


def _times(manifest: Manifest, folder: Path) -> str:
    """Returns the first and the last day (UTC) as a text."""
    if not manifest.has_times:
        return "unknown, order only"

    values: list[int] = []
    for info in manifest.files:
        if info.path.startswith("sequences/"):
            for statistics in _statistics_of_times(folder / info.path):
                values += [statistics.min, statistics.max]

    first = np.datetime64(min(values), "ms").astype("datetime64[D]")
    last = np.datetime64(max(values), "ms").astype("datetime64[D]")
    return f"{first} to {last}"


def _statistics_of_times(file: Path) -> Iterator[Any]:
    """Yields Parquet's statistics of the times in every row group, without reading rows."""
    metadata = read_footer(file).metadata
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        # For a list, Parquet appends the names of nested levels to the name of the column.
        for index in range(group.num_columns):
            column = group.column(index)
            if column.path_in_schema.startswith("timestamps"):
                yield column.statistics
                break
