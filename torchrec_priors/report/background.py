"""Background of the figures: the data set, the settings that differ, and the sharding plans."""

import json
from typing import Any

from torchrec_priors.common.files import read_json
from torchrec_priors.config import write_override
from torchrec_priors.report.page_table import Line, Table, count
from torchrec_priors.report.sections import Section, differing

_GROUPS = 8  # groups of a prior that are named
_VALUE_BYTES = 4  # values of the table are float32


def data_card(section: Section) -> Table | None:
    """Describes the data set: counts, dropped rows, split and priors; None if it is missing."""
    if section.data is None:
        return None
    manifest = section.data.manifest

    rows = [(name.replace("_", " "), _written(value)) for name, value in _flat(manifest.counts)]
    rows += [
        ("split", manifest.split),
        ("horizon E", str(manifest.horizon)),
        ("events", ", ".join(manifest.events) or "none"),
        ("category prior used for entropy and new-interest metrics", manifest.category_prior),
    ]
    # Priors may have thousands of groups, so only the first ones are named.
    for prior in manifest.priors:
        groups = [
            f"{group} {size:,}" for group, size in zip(prior.groups, prior.sizes, strict=True)
        ]
        text = f"{len(groups)} groups: {', '.join(groups[:_GROUPS])}"
        if len(groups) > _GROUPS:
            text += f", and {len(groups) - _GROUPS} more"
        rows.append((f"prior {prior.name} ({prior.kind})", text))
    rows += [(f"setting: {name}", _written(value)) for name, value in _flat(manifest.settings)]
    rows.append(("content sha256", manifest.content_sha256))

    lines = [Line([name, text]) for name, text in rows]
    return Table("data", f"Data set {manifest.name}", ["", ""], lines)


def configuration(section: Section) -> tuple[Table | None, str]:
    """Returns a table of the settings that differ, and the shared ones as lines of `key=value`."""
    # Seeds do not count as a difference between models.
    keys = sorted({key for row in section.rows for key in row.config} - {"seed"})
    differ = sorted(differing(section.rows))

    first = section.rows[0].config
    shared = [write_override(key, first.get(key)) for key in keys if key not in differ]
    table = None
    if differ:
        lines = [
            Line([row.label, *(_written(row.config.get(key)) for key in differ)])
            for row in section.rows
        ]
        head = ["Model", *differ]
        table = Table("differences-of-settings", "Where the models differ", head, lines)
    return table, "\n".join(shared)


def sharding(section: Section) -> list[Table]:
    """Makes a table for each different sharding plan that was saved with the runs."""
    plans: dict[str, list[str]] = {}
    for row in section.rows:
        file = row.results[0].run.sharding
        if file.is_file():
            # Plans are compared as text: rows with equal plans share a table.
            text = json.dumps(read_json(file, remedy="train again"))
            plans.setdefault(text, []).append(row.label)

    head = ["Table", "sharding", "kernel", "where", "rows", "columns", "memory"]
    tables = []
    for number, (text, labels) in enumerate(plans.items()):
        plan = json.loads(text)
        lines = [
            Line(_piece(table, piece)) for table in plan["tables"] for piece in table["pieces"]
        ]
        plural = "s" if plan["ranks"] != 1 else ""
        title = f"{plan['ranks']} rank{plural}: {', '.join(labels)}"
        tables.append(Table(f"sharding-{number}", title, head, lines))
    return tables


def _piece(table: dict[str, Any], piece: dict[str, Any]) -> list[str]:
    """Writes the cells of one piece of a table in the plan."""
    # Each row also stores one number of the optimizer.
    size = _VALUE_BYTES * piece["rows"] * (piece["columns"] + 1)
    return [
        table["table"]["name"],
        table["type"].replace("_", "-"),
        table["kernel"],
        f"rank {piece['rank']}",
        _range(piece["first_row"], piece["rows"]),
        _range(piece["first_column"], piece["columns"]),
        f"{size / 1e6:,.2f} MB",
    ]


def _range(first: int, size: int) -> str:
    return f"{first:,} to {first + size - 1:,}"


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flattens nested values into a list; the name of a section precedes each of its values."""
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{prefix}{name}: ")
        else:
            flat.append((prefix + name, value))
    return flat


def _written(value: Any) -> str:
    """Writes a value of a manifest or a configuration for the page."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
