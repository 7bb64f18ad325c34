"""Reads the catalogue of items, and the labels of users, from tables."""

from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.rule import Rule
from torchrec_priors.preparation.engine.source import ORDER
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.table.columns import are_plain_integers, id_of, of_kind
from torchrec_priors.preparation.table.description import Kind, Table, local
from torchrec_priors.preparation.table.files import RawTable, look_at

_FIRST_ROW = "_first_row"


@dataclass(frozen=True)
class Entities:
    """A table with a row for each item or user.

    Attributes:
        files: how the table is written.
        key: the column of ids.
        labels: the columns of labels.
        rows: the rows as they were read.
    """

    files: RawTable
    key: str
    labels: tuple[str, ...]
    rows: ir.Table

    def can_be_integers(self, engine: Engine) -> bool:
        """Returns whether all ids can be integers."""
        return engine.value(are_plain_integers(self.rows[self.key])) is not False

    def number_of_rows(self, engine: Engine) -> int:
        """Returns the number of rows that were read."""
        return int(engine.value(self.rows.count()))

    def valid(self, kind: Kind, engine: Engine, bad_rows: BadRows, name: str) -> ir.Table:
        """Returns the rows with an id that no earlier row has.

        Args:
            kind: the kind of the ids.
            name: the column that is added, with the ids: `item_id` or `user_id`.
        """
        rows = self.rows.mutate(**{self.key: of_kind(self.rows[self.key], kind)})
        first = rows[ORDER].min().over(ibis.window(group_by=rows[self.key]))
        rows = rows.mutate(**{_FIRST_ROW: first})
        rules = [
            Rule(self.key, "must have a value", rows[self.key].notnull()),
            Rule(self.key, "must not repeat", rows[ORDER] == rows[_FIRST_ROW]),
        ]
        rows = engine.keep_all_valid(rows, rules, bad_rows)
        return rows.mutate(**{name: rows[self.key]})


def columns_of_items(table: Table) -> dict[str, str]:
    """Returns the columns of titles and labels; for each, the option that names it."""
    wanted = {label.column: "--label" for label in table.labels}
    if table.title is not None:
        wanted[table.title] = "--title"
    return wanted


def read_items(table: Table, engine: Engine, bad_rows: BadRows) -> Entities | None:
    """Reads the catalogue; None if titles and labels are columns of the log."""
    if table.items is None:
        return None
    key = table.item.other
    labels = tuple(label.column for label in table.labels)
    wanted = {key: "--item", **columns_of_items(table)}
    return _read(local(table.items), "--items", key, labels, wanted, engine, bad_rows)


def read_users(table: Table, engine: Engine, bad_rows: BadRows) -> list[Entities]:
    """Reads the labels of users. A place is read once, even if it has several labels."""
    key = table.user.other
    read = []
    for place in dict.fromkeys(table.user_labels.values()):
        labels = tuple(name for name, other in table.user_labels.items() if other == place)
        wanted = {key: "--user", **dict.fromkeys(labels, "--user-label")}
        read.append(_read(local(place), "--user-label", key, labels, wanted, engine, bad_rows))
    return read


def _read(
    place: Path,
    option: str,
    key: str,
    labels: tuple[str, ...],
    wanted: dict[str, str],
    engine: Engine,
    bad_rows: BadRows,
) -> Entities:
    files = look_at(place, option, wanted)
    rows = files.read(engine, bad_rows, {})
    return Entities(files, key, labels, rows.mutate(**{key: id_of(rows[key])}))
