"""Writes `results.md`: the results of an experiment as Markdown tables."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torchrec_priors.baselines.baseline import labelled
from torchrec_priors.experiments.per_user import COMPARED
from torchrec_priors.experiments.results import Results, Row
from torchrec_priors.experiments.statistics import (
    LEVEL,
    RESAMPLES,
    SEED,
    Interval,
    mean_and_deviation,
)
from torchrec_priors.training.summary import SELECTED_BY


@dataclass(frozen=True)
class About:
    """The facts about the experiment that the tables name.

    Attributes:
        cells: the names of the cells, in the order of the rows.
        metrics: the metrics that are shown.
        reference: the cell that the others are compared with; "" for none.
        command: the command that makes the tables.
        data: the name and the content hash of the data set.
    """

    name: str
    split: str
    cells: list[str]
    seeds: list[int]
    metrics: list[str]
    reference: str
    command: str
    data: tuple[str, str]


def markdown(results: Results, about: About) -> str:
    """Returns the content of the file."""
    parts = [f"# {about.name}, {about.split} split", "\n".join(_means(results, about))]
    if about.reference:
        parts.append("\n".join(_differences(results, about)))

    failed = [row for row in results.rows if row["error"] is not None]
    if failed:
        lines = [f"- {row['cell']}, seed {row['seed']}: {row['error']}" for row in failed]
        parts.append("\n".join(["Without a result:", "", *lines]))
    parts.append("\n".join(_footer(results, about)))
    return "\n\n".join(parts) + "\n"


def _means(results: Results, about: About) -> list[str]:
    """Writes the table of means over seeds."""
    shown = [f"validation/{SELECTED_BY}", *about.metrics]
    titles = ["cell", "heads", "parameters of heads", f"validation {SELECTED_BY}", *about.metrics]
    lines = _head(titles)
    for cell in about.cells:
        rows = results.of(cell)
        label = _label(results, cell)
        # The reader must notice if a mean is over fewer seeds than the others.
        if _is_plain(results, cell):
            label += " (deterministic: one run)" if rows else " (no result)"
        elif len(rows) != len(about.seeds):
            label += f" ({len(rows)} of {len(about.seeds)} seeds)"
        label += _taint(rows)

        sizes = ["", ""]
        if rows:
            sizes = [f"{rows[0][name]:,}" for name in ("heads", "parameters/heads")]
        lines.append(_line([label, *sizes, *(_over_seeds(rows, name) for name in shown)]))
    return lines


def _taint(rows: list[Row]) -> str:
    """Returns what is added to a label if the pretrained vectors were trained on targets."""
    if _any_has(rows, "leaked/users"):
        return " (trained on targets)"
    if _any_has(rows, "leaked/untold_users"):
        return " (perhaps trained on targets)"
    return ""


def _any_has(rows: list[Row], name: str) -> bool:
    """Whether a row has a value other than 0 for this metric, on the split or on validation."""
    return any(row.get(name) or row.get(f"validation/{name}") for row in rows)


def _differences(results: Results, about: About) -> list[str]:
    """Writes the table of differences from the reference row."""
    lines = [
        f"Difference from {about.reference}, mean over users and seeds, and {LEVEL:.0%} interval:",
        "",
    ]
    lines += _head(["cell", *COMPARED])

    differences = results.differences(about.reference)
    for cell in about.cells:
        if cell == about.reference:
            continue
        values = [""] * len(COMPARED)
        if cell in differences:
            values = [_signed(interval) for interval in differences[cell]]
        label = f"{_label(results, cell)}{_of_one_seed(results, cell, about)}"
        lines.append(_line([label, *values]))
    return lines


def _of_one_seed(results: Results, cell: str, about: About) -> str:
    """Returns a remark on a row with one seed. If all rows have one seed, the footer says so."""
    difference = results.difference(cell, about.reference)
    if difference is not None and difference.of_one_seed and len(about.seeds) > 1:
        return " (one seed)"
    return ""


def _is_plain(results: Results, cell: str) -> bool:
    """Whether a cell is a plain baseline, which runs once for all seeds."""
    return any(row.get("plain") for row in results.rows if row["cell"] == cell)


def _label(results: Results, cell: str) -> str:
    """Returns the label of a cell, with the number of interests of a baseline model."""
    rows = [row for row in results.rows if row["cell"] == cell]
    interests = rows[0].get("interests") if rows else None
    return labelled(cell, interests)


def _footer(results: Results, about: About) -> list[str]:
    """Explains the numbers, and how to reproduce them."""
    seeds = ", ".join(map(str, about.seeds))
    intervals = f"Intervals: paired bootstrap over users ({RESAMPLES:,} resamples, seed {SEED})"
    if len(about.seeds) > 1:
        spread = f"Mean ± standard deviation over seeds {seeds}"
        intervals += (
            " and seeds. The part of the seeds is drawn from Student's t, with one degree of "
            "freedom less than there are seeds."
        )
    else:
        spread = f"Seed {seeds}"
        intervals += ". With one seed they do not cover what another training would give."

    # Two tables are of the same configurations if this hash is the same.
    lines = [f"{row['cell']} {row['seed']} {row['config_sha256']}\n" for row in results.rows]
    configurations = hashlib.sha256("".join(lines).encode()).hexdigest()
    name, content = about.data
    return [
        f"{spread}. {intervals}" if about.reference else f"{spread}.",
        "",
        f"- command: `{about.command}`",
        f"- configurations: sha256 `{configurations}` over all cells and seeds",
        f"- data set: {name}, content sha256 `{content}`",
    ]


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), "|" + "---|" * len(titles)]


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _over_seeds(rows: list[Row], name: str) -> str:
    """Writes the mean over seeds, with the standard deviation of several seeds."""
    values = [row[name] for row in rows if row.get(name) is not None]
    if not values:
        return ""
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"


def _signed(interval: Interval) -> str:
    """Writes a difference with its interval."""
    return f"{interval.mean:+z.4f} [{interval.low:+z.4f}, {interval.high:+z.4f}]"
