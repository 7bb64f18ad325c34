"""Describes in lines for users how tables were understood."""

from collections.abc import Sequence

from torchrec_priors.errors import shown, shown_names
from torchrec_priors.preparation.table.description import Kind, Table
from torchrec_priors.preparation.table.files import RawTable
from torchrec_priors.preparation.table.log import Facts, Log


def of_log(
    log: Log, facts: Facts, user_kind: Kind, item_kind: Kind, events: Sequence[str]
) -> list[str]:
    """Describes the log."""
    table = log.table
    files = log.files
    lines = [
        _first_line(files, facts.rows),
        f"  {table.user.log}: users, {_of_kind(user_kind, files, table.user.log)}",
        f"  {table.item.log}: items, {_of_kind(item_kind, files, table.item.log)}",
        f"  {table.time}: {log.times_in_words(facts)}",
    ]
    if table.event is not None:
        lines.append(f"  {table.event}: types of events: {', '.join(events)}")
    if table.items is None:
        lines += _of_catalogue(table)
    return lines + _unused(files)


def of_items(table: Table, files: RawTable, rows: int) -> list[str]:
    """Describes the catalogue."""
    return [_first_line(files, rows), *_of_catalogue(table), *_unused(files)]


def of_users(files: RawTable, rows: int, labels: Sequence[str]) -> list[str]:
    """Describes a file of labels of users."""
    of_labels = [f"  {label}: labels of users" for label in labels]
    return [_first_line(files, rows), *of_labels, *_unused(files)]


def _of_catalogue(table: Table) -> list[str]:
    lines = []
    if table.title is None:
        lines.append("  no --title: the ids of items are their titles")
    else:
        lines.append(f"  {table.title}: titles of items")
    for label in table.labels:
        several = "" if label.separator is None else f", separated by {shown(label.separator)}"
        lines.append(f"  {label.column}: labels of items{several}")
    if not table.labels:
        lines.append("  no --label: all items are in one category")
    return lines


def _unused(files: RawTable) -> list[str]:
    """Names the columns that no option names: perhaps one was forgotten."""
    if not files.unused:
        return []
    return [f"  not used: {shown_names(files.unused)}"]


def _first_line(files: RawTable, rows: int) -> str:
    return f"{files.name}: {files.words}, {rows:,} rows"


def _of_kind(kind: Kind, files: RawTable, column: str) -> str:
    name = "integers" if kind == "integer" else "text"
    first = next((value for value in files.sample(column).to_pylist() if value), None)
    return (
        name if first is None else f"{name} such as {first if kind == 'integer' else shown(first)}"
    )
