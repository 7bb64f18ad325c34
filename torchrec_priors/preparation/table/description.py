"""Describes a log in tables: which files there are, and what their columns mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.raw.times import TimeForm
from torchrec_priors.remote.uri import Place

Kind = Literal["integer", "text"]

# The value of `dataset` in the manifest of a data set that was prepared from tables.
TABLE = "table"


@dataclass(frozen=True)
class ItemLabel:
    """A column of labels of items.

    Attributes:
        column: the name of the column, which is also the name of the prior.
        separator: the text between two labels of an item; None if an item has one label.
    """

    column: str
    separator: str | None = None

    @classmethod
    def read(cls, text: str) -> "ItemLabel":
        """Reads `COLUMN` or `COLUMN=SEPARATOR`."""
        column, equals, separator = text.partition("=")
        if equals and not separator:
            raise UserError(f"--label: '{text}' has no separator after the =: write {column}='|'")
        return cls(column, separator or None)

    def __str__(self) -> str:
        return self.column if self.separator is None else f"{self.column}={self.separator}"


@dataclass(frozen=True)
class Key:
    """The column of an id.

    Attributes:
        log: its name in the log.
        other: its name in the catalogue, or in the files of users.
    """

    log: str
    other: str

    @classmethod
    def read(cls, text: str) -> "Key":
        """Reads `COLUMN`, or `COLUMN=NAME IN THE OTHER FILE`."""
        log, _, other = text.partition("=")
        return cls(log, other or log)

    def __str__(self) -> str:
        return self.log if self.log == self.other else f"{self.log}={self.other}"


@dataclass(frozen=True)
class Known:
    """What an earlier data set has decided, for tables that are appended to it.

    Attributes:
        events: the names of event types, by code.
        item_id: the kind of the ids of items.
        user_id: the kind of the ids of users.
    """

    events: tuple[str, ...]
    item_id: Kind
    user_id: Kind


@dataclass(frozen=True)
class Table:
    """A log in tables. A place is a file or a folder of files.

    Attributes:
        name: the name of the data set.
        log: the place of the log.
        user: the column of users' ids.
        item: the column of items' ids.
        time: the column of times.
        event: the column of event types, if there is one.
        time_form: how times are written; None if it is recognised.
        items: the place of the catalogue. Without one, titles and labels are columns of the log.
        title: the column of titles; None if items have only ids.
        labels: the columns of labels of items. The first one is the category prior.
        user_labels: the places of the labels of users, by the name of the column.
    """

    name: str
    log: Place
    user: Key
    item: Key
    time: str
    event: str | None = None
    time_form: TimeForm | None = None
    items: Place | None = None
    title: str | None = None
    labels: tuple[ItemLabel, ...] = ()
    user_labels: Mapping[str, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError if a column has two meanings."""
        meanings: dict[str, str] = {}
        columns = {"--user": self.user.log, "--item": self.item.log, "--time": self.time}
        if self.event is not None:
            columns["--event"] = self.event
        for option, column in columns.items():
            if column in meanings:
                raise UserError(
                    f"{option}: '{column}' is the column of {meanings[column]}, too:"
                    " give a column of its own"
                )
            meanings[column] = option

        names = [label.column for label in self.labels]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"--label: '{name}' is given twice: give it once")

    def recorded(self) -> dict[str, Any]:
        """Returns what the manifest records: the meaning of columns, without files."""
        values: dict[str, Any] = {
            "name": self.name,
            "user": str(self.user),
            "item": str(self.item),
            "time": self.time,
            "time_format": self.time_form and self.time_form.name,
            "event": self.event,
            "items": self.items is not None,
            "title": self.title,
            "label": [str(label) for label in self.labels],
            "user_label": sorted(self.user_labels),
        }
        return {name: value for name, value in values.items() if value}


def local(place: Place) -> Path:
    """Returns a place that is known to be local, because tables in stores have been fetched."""
    assert isinstance(place, Path), place
    return place


def is_file_name(path: Path) -> bool:
    """Returns whether a path in a folder of data is data: hidden files, such as _SUCCESS, are not.

    >>> is_file_name(Path("2024/part-0.csv")), is_file_name(Path("_SUCCESS"))
    (True, False)
    """
    return not any(part.startswith((".", "_")) for part in path.parts)
