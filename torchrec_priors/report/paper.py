"""The tables and figures of the paper: how they look, and their numbers (`paper.toml`)."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torchrec_priors.report.sections import Section

_FILE = Path(__file__).with_name("paper.toml")


@dataclass(frozen=True)
class Form:
    """How a table or a figure of the paper is shown.

    Attributes:
        key: its section in `paper.toml`, such as "table-2".
        needs: the runs that fill it.
        backbone: the encoder of the paper's models in it.
        head: titles of the columns of a table.
        metrics: keys of `metrics.json`, a column each.
        notes: lines under a table.
        entropy_digits: decimals of entropy in a table.
        caption: text under a figure, in which `{split}` is the split.
    """

    key: str
    title: str
    needs: str
    backbone: str = "HSTU"
    head: Sequence[str] = ()
    metrics: Sequence[str] = ()
    notes: Sequence[str] = ()
    entropy_digits: int = 3
    caption: str = ""


@cache
def form(key: str) -> Form:
    """The form of a table or figure, such as "table-2" or "figure-7"."""
    entries = {name: value for name, value in _file()[key].items() if name != "values"}
    return Form(key, **entries)


def figures(table: int, section: Section) -> dict[str, Sequence[float]]:
    """The numbers of a table of the paper on the section's data set.

    Returns:
        row -> its numbers; empty if the paper has none of the data set.
    """
    # A data set is known by its name only, so made-up files of the same name get the rows, too.
    rows: dict[str, Sequence[float]] = _file()[f"table-{table}"]["values"].get(section.name, {})
    return rows


def reports_on(section: Section) -> bool:
    """Whether the paper has any figures of the section's data set."""
    return section.name in _file()["horizon"]


def about(table: int, section: Section) -> list[str]:
    """What a reader should know about the paper's rows next to ours; empty for other data sets."""
    if not reports_on(section):
        return []
    if not figures(table, section):
        return [f"The paper has no figures for '{section.name}' in its Table {table}."]

    backbone = form(f"table-{table}").backbone
    users = _file()["users"][backbone][section.name]
    note = (
        f"“paper” rows: Table {table} of the paper, {backbone}, whose data set has {users:,} users "
        "(its Table 4)."
    )

    # Tables of HLLM name their horizons themselves.
    horizon = _file()["horizon"][section.name]
    if backbone == "HSTU" and section.horizon and section.horizon != horizon:
        note += (
            f" Theirs predict the next {_items(horizon)}, these the next "
            f"{_items(section.horizon)}: not comparable."
        )

    # One percent leaves room for another rule about which users are too short.
    ours = section.rows[0].results[0].metrics.get("users")
    if ours and abs(ours - users) > 0.01 * users:
        note += (
            f" Here there are {ours:,}: another cut of the data, or made-up files, so the two are "
            "not comparable."
        )
    return [note]


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf8"))


def _items(number: int) -> str:
    return "item" if number == 1 else f"{number} items"
