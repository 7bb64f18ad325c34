"""The tables and figures of the paper: their form and their numbers, read from `paper.toml`."""

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
        key: the section in `paper.toml`, such as "table-2".
        needs: the runs that fill the table or figure.
        backbone: the encoder of the paper's models in the table.
        head: the titles of a table's columns.
        metrics: keys of `metrics.json`, one for each column.
        notes: the lines under a table.
        entropy_digits: the number of decimals of entropy in a table.
        caption: the text under a figure; `{split}` is replaced by the split.
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
    """Reads the form of a table or figure, such as "table-2" or "figure-7"."""
    entries = {name: value for name, value in _file()[key].items() if name != "values"}
    return Form(key, **entries)


def figures(table: int, section: Section) -> dict[str, Sequence[float]]:
    """Returns the numbers of a table of the paper on the section's data set.

    Returns:
        row -> its numbers; empty if the paper has no numbers for this data set.
    """
    # The name identifies the data set, so generated files of the same name get the rows, too.
    rows: dict[str, Sequence[float]] = _file()[f"table-{table}"]["values"].get(section.name, {})
    return rows


def reports_on(section: Section) -> bool:
    """Whether the paper has any results on the section's data set."""
    return section.name in _file()["horizon"]


def about(table: int, section: Section) -> list[str]:
    """Returns notes on the paper's rows next to ours; empty for data sets that it does not use."""
    if not reports_on(section):
        return []
    if not figures(table, section):
        return [f"The paper has no figures for '{section.name}' in its Table {table}."]

    backbone = form(f"table-{table}").backbone
    users = _file()["users"][backbone][section.name]
    note = (
        f"“paper” rows: Table {table} of the paper, {backbone}, on a data set with {users:,} users "
        "(its Table 4)."
    )

    # The paper's tables of its other backbone, HLLM, state the horizon of each row.
    horizon = _file()["horizon"][section.name]
    if backbone == "HSTU" and section.horizon and section.horizon != horizon:
        note += (
            f" Theirs predict the next {_items(horizon)}, these the next "
            f"{_items(section.horizon)}: not comparable."
        )

    # A difference of one percent may come from another rule about users with short histories.
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
