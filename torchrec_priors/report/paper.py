"""The paper's own figures, for the data sets that it reports on (`paper.toml`)."""

import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from torchrec_priors.report.sections import Section

_FILE = Path(__file__).with_name("paper.toml")


@cache
def _values() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf8"))


def figures(table: int, section: Section) -> dict[str, Sequence[float]]:
    """Row -> figures of a table of the paper, on the section's data set; empty where it has none."""
    found: dict[str, Sequence[float]] = _values().get(f"table-{table}", {}).get(section.name, {})
    return found


def reports_on(section: Section) -> bool:
    """Whether the paper has any figures of the section's data set."""
    return section.name in _values()["horizon"]


def about(table: int, section: Section, backbone: str = "HSTU") -> list[str]:
    """What a reader is to know of the paper's figures beside ours; nothing where it has none of any kind."""
    if not reports_on(section):
        return []
    if not figures(table, section):
        return [f"The paper has no figures for '{section.name}' in its Table {table}."]
    users = _values()["users"][backbone][section.name]
    said = f"“paper” rows: Table {table} of the paper, {backbone}, whose data set has {users:,} users (its Table 4)."
    horizon = _values()["horizon"][section.name]
    if backbone == "HSTU" and section.horizon and section.horizon != horizon:
        said += f" Theirs predict the next {_items(horizon)}, these the next {_items(section.horizon)}: not comparable."
    ours = section.rows[0].results[0].metrics.get("users")
    if ours and abs(ours - users) > 0.01 * users:
        said += f" Here there are {ours:,}: another cut of the data, or made-up files, so the two are not comparable."
    return [said]


def _items(number: int) -> str:
    return "item" if number == 1 else f"{number} items"
