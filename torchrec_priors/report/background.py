"""What lies behind the figures: the data set, where runs differ in their configuration, and where tables were."""

import json
from typing import Any

from torchrec_priors.common.files import read_json
from torchrec_priors.config import write_override
from torchrec_priors.report.page_table import Line, Table, count
from torchrec_priors.report.sections import Section, differing

_GROUPS = 8  # of a prior, by name


def data_card(section: Section) -> Table | None:
    """Counts, what was dropped and why, the split, the priors; None where the data set is not there."""
    if section.data is None:
        return None
    manifest = section.data.manifest
    lines = [
        Line([name.replace("_", " "), _written(value)]) for name, value in _flat(manifest.counts)
    ]
    lines += [
        Line(["split", manifest.split]),
        Line(["horizon E", str(manifest.horizon)]),
        Line(["events", ", ".join(manifest.events) or "none"]),
        Line(["categories of entropy and new interest", manifest.category_prior]),
    ]
    for prior in manifest.priors:
        named = [f"{group} {size:,}" for group, size in zip(prior.groups, prior.sizes, strict=True)]
        more = f", and {len(named) - _GROUPS} more" if len(named) > _GROUPS else ""
        lines.append(
            Line(
                [
                    f"prior {prior.name} ({prior.kind})",
                    f"{len(named)} groups: {', '.join(named[:_GROUPS])}{more}",
                ]
            )
        )
    lines += [
        Line([f"setting: {name}", _written(value)]) for name, value in _flat(manifest.settings)
    ]
    lines.append(Line(["content sha256", manifest.content_sha256]))
    return Table("data", f"Data set {manifest.name}", ["", ""], lines)


def configuration(section: Section) -> tuple[Table | None, str]:
    """Keys that differ among the rows, and what all share, as `key=value`."""
    keys = sorted({key for row in section.rows for key in row.config} - {"seed"})
    differ = sorted(differing(section.rows))
    lines = [
        Line([row.label, *(_written(row.config.get(key)) for key in differ)])
        for row in section.rows
    ]
    shared = [
        write_override(key, section.rows[0].config.get(key)) for key in keys if key not in differ
    ]
    table = (
        Table("differences-of-settings", "Where the models differ", ["Model", *differ], lines)
        if differ
        else None
    )
    return table, "\n".join(shared)


def sharding(section: Section) -> list[Table]:
    """The plan saved with each run; a table for each plan that differs."""
    plans: dict[str, list[str]] = {}
    for row in section.rows:
        file = row.results[0].run.sharding
        if file.is_file():
            text = json.dumps(read_json(file, remedy="train again"))
            plans.setdefault(text, []).append(row.label)
    found = []
    for number, (text, labels) in enumerate(plans.items()):
        plan = json.loads(text)
        lines = []
        for each in plan["tables"]:
            table = each["table"]
            for piece in each["pieces"]:
                size = (
                    4 * piece["rows"] * (piece["columns"] + 1)
                )  # values, and a number of the optimizer a row
                lines.append(
                    Line(
                        [
                            table["name"],
                            each["type"].replace("_", "-"),
                            each["kernel"],
                            f"rank {piece['rank']}",
                            _range(piece["first_row"], piece["rows"]),
                            _range(piece["first_column"], piece["columns"]),
                            f"{size / 1e6:,.2f} MB",
                        ]
                    )
                )
        head = ["Table", "sharding", "kernel", "where", "rows", "columns", "memory"]
        title = f"{plan['ranks']} rank{'s' * (plan['ranks'] != 1)}: {', '.join(labels)}"
        found.append(Table(f"sharding-{number}", title, head, lines))
    return found


def _range(first: int, size: int) -> str:
    return f"{first:,} to {first + size - 1:,}"


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}: ")
        else:
            found.append((prefix + name, value))
    return found


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return count(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
