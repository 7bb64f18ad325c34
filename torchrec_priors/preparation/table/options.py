"""Reads the description of a table from options, from a TOML file, or from a manifest."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torchrec_priors.common.toml_text import TomlError, parse_toml
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.preparation.raw.times import TimeForm
from torchrec_priors.preparation.table.description import ItemLabel, Key, Table
from torchrec_priors.remote.uri import Place, place_of

# These keys take a list of texts.
_LISTS = ("label", "user_label")
# The endings of the names of files that are not part of the name of a data set.
_ENDINGS = (".gz", ".bz2", ".xz", ".csv", ".tsv", ".txt", ".parquet")


@dataclass(frozen=True)
class TableOptions:
    """The options of a table, as texts. One that is not given is None or empty.

    The fields have the names of the options of `prepare`; `folder` is the folder to which paths
    are relative.
    """

    table: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None
    time_format: str | None = None
    event: str | None = None
    items: str | None = None
    title: str | None = None
    label: tuple[str, ...] = ()
    user_label: tuple[str, ...] = ()
    name: str | None = None

    @classmethod
    def from_toml(cls, file: Path) -> "TableOptions":
        """Reads a TOML file, whose keys are the options. Paths are relative to its folder.

        Raises:
            UserError: the file cannot be read, or a key or a value is wrong.
        """
        try:
            values = parse_toml(file.read_text(encoding="utf8"))
        except FileNotFoundError as error:
            raise UserError(f"--dataset: there is no file '{file}': check the path") from error
        except (TomlError, UnicodeDecodeError, OSError) as error:
            raise UserError(f"--dataset: '{file}' cannot be read ({error}): correct it") from error

        known = [field.name for field in fields(cls)]
        texts: dict[str, Any] = {}
        for key, value in values.items():
            name = key.replace("-", "_")
            if name not in known:
                raise UserError(f"'{file}' has an unknown key '{key}': {nearest(name, known)}")
            texts[name] = _checked(value, name, file)
        given = cls(**texts)

        labels = [_relative(label, file.parent) for label in given.user_label]
        return replace(
            given,
            table=_beside(given.table, file.parent),
            items=_beside(given.items, file.parent),
            user_label=tuple(labels),
            name=given.name or file.stem,
        )

    def over(self, other: "TableOptions") -> "TableOptions":
        """Returns these options, with those of `other` where they are not given."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(other, **{name: value for name, value in given.items() if value})

    def is_given(self) -> bool:
        """Returns whether any option is given."""
        return self != TableOptions()

    def described(self) -> Table:
        """Returns the description of the table.

        Raises:
            UserError: an option is missing or wrong.
        """
        for name in ("table", "user", "item", "time"):
            if not getattr(self, name):
                what = "file or folder of the log" if name == "table" else f"column of the {name}s"
                raise UserError(f"--{name} is missing: give the {what}")
        assert self.table is not None
        assert self.user is not None
        assert self.item is not None
        assert self.time is not None

        log = place_of(self.table, "--table")
        return Table(
            name=self.name or _name_of(log),
            log=log,
            user=Key.read(self.user),
            item=Key.read(self.item),
            time=self.time,
            event=self.event,
            time_form=None if self.time_format is None else TimeForm(self.time_format),
            items=None if self.items is None else place_of(self.items, "--items"),
            title=self.title,
            labels=tuple(ItemLabel.read(label) for label in self.label),
            user_labels=dict(_user_label(label) for label in self.user_label),
        )

    def appended_to(self, recorded: Mapping[str, Any]) -> Table:
        """Returns the description of new tables of a data set, whose columns the manifest records.

        Args:
            recorded: what `Table.recorded` returned when the data set was prepared.

        Raises:
            UserError: other columns are given, or a table is missing that the data set had.
        """
        names = {
            "label": tuple(recorded.get("label", ())),
            **{
                name: recorded[name]
                for name in ("name", "user", "item", "time", "event", "title", "time_format")
                if name in recorded
            },
        }
        table = replace(self, **{**_given(self), **names}).described()
        for name, value in _given(self).items():
            if name in names and value != names[name] and name != "name":
                raise UserError(
                    f"--{name.replace('_', '-')}: the data set was made with {names[name]!r}, not"
                    f" {value!r}: leave it out"
                )

        if recorded.get("items") and table.items is None:
            raise UserError("--items is missing: give the catalogue of the new items, too")
        labels = recorded.get("user_label", [])
        if sorted(table.user_labels) != labels:
            wanted = " ".join(f"--user-label {label}=FILE" for label in labels)
            raise UserError(
                "--user-label: the data set was made with"
                f" {', '.join(labels) or 'no labels of users'}: give {wanted or 'none'}"
            )
        return table


def _given(options: TableOptions) -> dict[str, Any]:
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value}


def _checked(value: object, name: str, file: Path) -> str | tuple[str, ...]:
    """Returns a value of the TOML file: a text, or a tuple of texts."""
    if name in _LISTS:
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return tuple(texts)
        raise UserError(f"'{file}': {name} must be a list of texts, such as [\"category\"]")
    if not isinstance(value, str) or not value:
        raise UserError(f"'{file}': {name} must be a text, such as \"{name}_id\"")
    return value


def _user_label(text: str) -> tuple[str, Place]:
    """Reads `COLUMN=FILE`."""
    column, equals, place = text.partition("=")
    if not equals or not column or not place:
        raise UserError(
            f"--user-label: '{text}' does not say which file has the labels: write {column}=FILE"
        )
    return column, place_of(place, "--user-label")


def _relative(label: str, folder: Path) -> str:
    """Makes the path in `COLUMN=FILE` relative to a folder."""
    column, equals, place = label.partition("=")
    return f"{column}{equals}{_beside(place, folder) or ''}"


def _beside(place: str | None, folder: Path) -> str | None:
    if not place:
        return place
    named = place_of(place)
    return str(folder / named) if isinstance(named, Path) else place


def _name_of(place: Place) -> str:
    """Returns the name of a data set: that of the log's file, without endings.

    >>> _name_of(Path("data/events.csv.gz"))
    'events'
    """
    name = place.absolute().name
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name or "table"
