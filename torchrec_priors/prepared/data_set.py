"""Reading a prepared data set: manifest, items, priors, and row groups of user sequences."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError, nearest, shown
from torchrec_priors.parquet import Footer
from torchrec_priors.prepared.checked_files import CheckedFiles
from torchrec_priors.prepared.id_files import as_numbers
from torchrec_priors.prepared.id_texts import id_texts
from torchrec_priors.prepared.manifest import Manifest, PriorInfo
from torchrec_priors.remote.uri import Place, place_of

log = logging.getLogger(__name__)

Columns = Mapping[str, np.ndarray]  # of the sequences, by name
COLUMN_TYPES = {"items": np.int32, "timestamps": np.int64, "events": np.int8}  # as stored
# columns where the log is split in time
TRAINING_END = "training_end"
VALIDATION_END = "validation_end"
_LENGTH = "length"  # of each user's history; a file may have it as a column


@dataclass(frozen=True)
class RowGroup:
    """Where a row group of users lies: file, index within it, users in it, and the number of its first user."""

    file: Path
    index: int
    users: int
    first_user: int


@dataclass(frozen=True)
class Users:
    """Users of one row group, in file order.

    Attributes:
        starts: int64 [U + 1], bounds of each user's items.
        items: int64 row ids of all users, one after another.
        columns: what else was asked for, `timestamps` (ms) or `events` (codes), as int64 beside `items`.
    """

    starts: np.ndarray
    items: np.ndarray
    columns: Columns = field(default_factory=dict)

    def history(self, user: int) -> np.ndarray:
        return self.items[self.starts[user] : self.starts[user + 1]]

    def columns_of(self, user: int) -> dict[str, np.ndarray]:
        """The columns beside `history`."""
        return {
            name: values[self.starts[user] : self.starts[user + 1]]
            for name, values in self.columns.items()
        }

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


@dataclass(frozen=True)
class History:
    """One user's whole history: int64 row ids, the columns that were asked for, and the user's number in file order.

    The number is -1 where the user is not known, as for a history of one's own.
    """

    items: np.ndarray
    columns: Columns = field(default_factory=dict)
    user: int = -1


class PreparedData:
    """A prepared data set, opened. Of one in a store (`folder` is a URI), files are fetched when they are needed.

    Raises:
        UserError: no manifest, a file that is missing, truncated, or no Parquet.
    """

    def __init__(self, folder: Place | str) -> None:
        self.folder = place_of(folder)
        self._files = CheckedFiles(self.folder)
        self.manifest: Manifest = self._files.manifest
        self.items: int = self.manifest.counts["items"]
        self.users: int = self.manifest.counts["users"]
        self._footers: dict[Path, Footer] = {}  # of the sequences
        self._names: dict[Path, str] = {}  # likewise
        if isinstance(self.folder, Path):
            _ = self.row_groups  # so that a damaged file is found at once

    def file(self, name: str) -> Path:
        """A local path of a file of the data set, which is as it was written: all of it is read when first asked for.

        Raises:
            UserError: it is missing or damaged.
        """
        return self._files.path(name)

    @property
    def scratch(self) -> Path:
        """A local folder on whose disk there may be temporary files: the data set's own, or the cache's."""
        return self._files.scratch

    def catalogue(self, columns: list[str] | None = None) -> pa.Table:
        """`items.parquet`, row i for item i.

        Raises:
            UserError: it has no such column.
        """
        file = self.folder / "items.parquet"
        there = self._files.schema("items.parquet").names
        for column in columns or []:
            if column not in there:
                raise UserError(
                    f"the catalogue {file} has no column '{column}': {nearest(column, there)}"
                )
        table = self._read("items.parquet", columns)
        if table.num_rows != self.items:
            raise UserError(
                f"{self.folder / 'items.parquet'} has {table.num_rows} rows of {self.items}: prepare again"
            )
        return table

    def prior_pairs(self, name: str, entity: str) -> tuple[np.ndarray, np.ndarray]:
        """(entity, group) of `priors/<name>.parquet`; `entity` is `item`, `event` or `user_id`."""
        table = self._read(f"priors/{name}.parquet", [entity, "group"])
        return table[entity].to_numpy(), table["group"].to_numpy()

    def user_pairs(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(user's number in file order, group) of a user prior; users of its file that the data set lacks are left out.

        Takes memory for the ids of all users, once.

        Raises:
            UserError: its ids are of another type.
        """
        table = self._read(f"priors/{name}.parquet", ["user_id", "group"])
        users = pa.chunked_array(
            [chunk for group in self.row_groups for chunk in self.user_ids(group).chunks]
        )
        if users.type != table["user_id"].type:
            types = f"{table['user_id'].type} there, {users.type} in the sequences"
            raise UserError(
                f"prior '{name}': its user ids are of another type ({types}): prepare the data set again"
            )
        number = as_numbers(pc.index_in(table["user_id"], value_set=users))
        known = number >= 0
        if not known.all():
            log.info(
                "prior '%s': %s rows are of users that the data set lacks",
                name,
                f"{(~known).sum():,}",
            )
        return number[known], table["group"].to_numpy()[known]

    def category_prior(self) -> PriorInfo:
        return self.manifest.prior(self.manifest.category_prior)

    def read_users(self, group: RowGroup, columns: Sequence[str] = ()) -> Users:
        """The users of a row group with the `columns` asked for."""
        starts, values = self._lists(group, ["items", *columns])
        whole = {name: column.astype(np.int64) for name, column in values.items()}
        return Users(starts, whole.pop("items"), whole)

    def read_into(self, group: RowGroup, places: Columns) -> None:
        """Fills arrays with the columns of a row group that they are named after. Threads may read at the same time.

        Raises:
            UserError: it cannot be read, or its users' histories are not those of `lengths`.
        """
        starts, values = self._lists(group, list(places))
        expected = self.lengths[group.first_user : group.first_user + group.users]
        if not np.array_equal(np.diff(starts), expected):
            raise UserError(
                f"{group.file} is not as it was when training began: prepare the data set again"
            )
        for name, place in places.items():
            place[:] = values[name]

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 [users]: items of each user's history, in file order; read once.

        Takes the column `length` where a file has one, else the bounds of its smallest lists.
        """
        found = np.empty(self.users, np.int32)
        counted = {
            file
            for file, footer in self._footers.items()
            if _LENGTH in footer.metadata.schema.names
        }
        for group in self.row_groups:
            place = found[group.first_user : group.first_user + group.users]
            if group.file in counted:
                place[:] = self._row_group(group, [_LENGTH])[_LENGTH].to_numpy()
            else:
                smallest = _smallest_list(self._footers[group.file].metadata.row_group(group.index))
                place[:] = np.diff(self._lists(group, [smallest])[0])
        return found

    @cached_property
    def training_ends(self) -> np.ndarray:
        """int32 [users]: how many items of each history are for training, in file order."""
        return self._ends(TRAINING_END, 2)

    @cached_property
    def validation_ends(self) -> np.ndarray:
        """int32 [users]: how many items of each history come before the test part, in file order."""
        return self._ends(VALIDATION_END, 1)

    def _ends(self, column: str, horizons: int) -> np.ndarray:
        if not self._in_time:
            return self.lengths - np.int32(horizons * self.manifest.horizon)
        parts = [self._row_group(group, [column])[column].to_numpy() for group in self.row_groups]
        found = np.concatenate(parts).astype(np.int32)
        if (found < 0).any() or (found > self.lengths).any():
            raise UserError(
                f"{self.folder / 'sequences'}: '{column}' is outside a user's history: prepare again"
            )
        return found

    @property
    def _in_time(self) -> bool:
        return any(
            TRAINING_END in footer.metadata.schema.names for footer in self._footers.values()
        )

    def user_ids(self, group: RowGroup) -> pa.ChunkedArray:
        """Original ids of the users of a row group."""
        return self._row_group(group, ["user_id"])["user_id"]

    def user_texts(self) -> pa.ChunkedArray:
        """Original ids of all users as texts, in file order."""
        return pa.chunked_array(
            [id_texts(self.user_ids(group), str(group.file)) for group in self.row_groups]
        )

    def find_user(self, user_id: str, columns: Sequence[str] = ()) -> History:
        """The whole history of the user whose original id reads as `user_id`.

        Raises:
            UserError: there is no such user.
        """
        for group in self.row_groups:
            place = pc.index(id_texts(self.user_ids(group), str(group.file)), user_id).as_py()
            if place >= 0:
                users = self.read_users(group, columns)
                return History(
                    users.history(place), users.columns_of(place), group.first_user + place
                )
        least = (
            "with nothing to train on"
            if self._in_time
            else f"of at most {2 * self.manifest.horizon} interactions"
        )
        left_out = f"users {least} were left out: give --history"
        raise UserError(
            f"--user: data set '{self.manifest.name}' has no user {shown(user_id)} ({left_out})"
        )

    @cached_property
    def row_groups(self) -> list[RowGroup]:
        """Of all users' sequences."""
        groups = []
        first = 0
        names = [info.path for info in self.manifest.files if info.path.startswith("sequences/")]
        for name, (file, footer) in zip(names, self._files.footers(names), strict=True):
            self._names[file], self._footers[file] = name, footer
            metadata = footer.metadata
            for index in range(metadata.num_row_groups):
                users = metadata.row_group(index).num_rows
                groups.append(RowGroup(file, index, users, first))
                first += users
        if first != self.users:
            raise UserError(
                f"{self.folder / 'sequences'} holds {first} users of {self.users}: prepare again"
            )
        return groups

    def _lists(
        self, group: RowGroup, columns: list[str]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Bounds of the users' lists, int64 [U + 1], and the values of each column, one user after another.

        Raises:
            UserError: columns do not go with one another, or name items that the catalogue lacks.
        """
        table = self._row_group(group, columns)
        lists = {name: table[name].combine_chunks() for name in columns}
        starts = np.zeros(group.users + 1, np.int64)
        np.cumsum(_list_lengths(lists[columns[0]]), out=starts[1:])
        for name in columns[1:]:
            if not np.array_equal(_list_lengths(lists[name]), np.diff(starts)):
                raise UserError(
                    f"{group.file}: '{columns[0]}' and '{name}' of a user differ in length: prepare again"
                )
        values = {name: column.flatten().to_numpy() for name, column in lists.items()}
        items = values.get("items", starts[:0])
        if len(items) and (items.min() < 0 or items.max() >= self.items):
            raise UserError(
                f"{group.file} names an item outside the catalogue of {self.items}: prepare again"
            )
        return starts, values

    def _row_group(self, group: RowGroup, columns: list[str]) -> pa.Table:
        footer = self._footers[group.file]
        return self._files.row_group(
            self._names[group.file], group.file, footer, group.index, columns
        )

    def _read(self, name: str, columns: Sequence[str] | None) -> pa.Table:
        return self._files.table(name, columns)


def _list_lengths(lists: pa.ListArray) -> np.ndarray:
    lengths: np.ndarray = lists.value_lengths().to_numpy(zero_copy_only=False)
    return lengths


def _smallest_list(group: Any) -> str:
    """The lists of a user that take least to read, for their lengths alone."""
    columns = [group.column(number) for number in range(group.num_columns)]
    lists = [column for column in columns if column.path_in_schema.split(".")[0] in COLUMN_TYPES]
    name: str = min(lists, key=lambda column: column.total_compressed_size).path_in_schema
    return name.split(".")[0]
