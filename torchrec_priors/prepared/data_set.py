"""Reads a prepared data set: its manifest, items, priors and row groups of user sequences.

manifest.json                    what the data set contains, and checksums (`manifest.py`)
items.parquet                    row i is item i: its id, its training frequency, its attributes
sequences/part-*.parquet         a row for each user: items, times and events, in order of time
priors/NAME.parquet              pairs of an item, a user or an event, and its group
priors/NAME.eligible.parquet     the items that each group of an event prior may retrieve
content/NAME.parquet             vectors that describe items (`content.py`)
"""

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
from torchrec_priors.prepared.manifest import SEQUENCES, Manifest, PriorInfo
from torchrec_priors.remote.uri import Place, place_of

log = logging.getLogger(__name__)

# Maps the names of columns of the sequences to their values.
Columns = Mapping[str, np.ndarray]
# The types of these columns in the files.
COLUMN_TYPES = {"items": np.int32, "timestamps": np.int64, "events": np.int8}

# The sequences have these columns if the log is split by time. They hold the number of the user's
# items before the end of the training part and of the validation part.
TRAINING_END = "training_end"
VALIDATION_END = "validation_end"

# A file may store the length of each user's history in this column. Most files do not have it.
_LENGTH = "length"


@dataclass(frozen=True)
class RowGroup:
    """A row group of users.

    Attributes:
        file: the file that contains the row group.
        index: the index of the row group in the file.
        users: the number of users in the row group.
        first_user: the index of its first user, counted through all files in order.
    """

    file: Path
    index: int
    users: int
    first_user: int


@dataclass(frozen=True)
class Users:
    """Users of one row group, in file order.

    Attributes:
        starts: int64 [U + 1]; the items of user u are `items[starts[u] : starts[u + 1]]`.
        items: the int64 row ids of all users' items, one user after another.
        columns: the other requested columns, `timestamps` (ms) or `events` (codes), as int64 in the
            order of `items`.
    """

    starts: np.ndarray
    items: np.ndarray
    columns: Columns = field(default_factory=dict)

    def history(self, user: int) -> np.ndarray:
        """Returns the items of the user with index `user` in the row group."""
        return self.items[self.starts[user] : self.starts[user + 1]]

    def columns_of(self, user: int) -> dict[str, np.ndarray]:
        """Returns the other columns of the user, in the order of `history`."""
        return {
            name: values[self.starts[user] : self.starts[user + 1]]
            for name, values in self.columns.items()
        }

    @property
    def lengths(self) -> np.ndarray:
        """The number of items of each user, int64."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class History:
    """One user's whole history.

    Attributes:
        items: the int64 row ids of the items.
        columns: the other requested columns, in the order of `items`.
        user: the user's number in file order; -1 if the history does not belong to a user of the
            data set, for example if it was given by `--history`.
    """

    items: np.ndarray
    columns: Columns = field(default_factory=dict)
    user: int = -1


class PreparedData:
    """An opened prepared data set.

    If the data set is in a store (`folder` is a URI), files are fetched when they are needed.

    Raises:
        UserError: there is no manifest, or a file is missing, truncated, or not Parquet.
    """

    def __init__(self, folder: Place | str) -> None:
        self.folder = place_of(folder)
        self._files = CheckedFiles(self.folder)
        self.manifest: Manifest = self._files.manifest
        self.items: int = self.manifest.counts["items"]
        self.users: int = self.manifest.counts["users"] if self.manifest.has_users else 0

        # The footers and names of the files of sequences. `row_groups` fills these in.
        self._footers: dict[Path, Footer] = {}
        self._names: dict[Path, str] = {}

        # In a local folder, a damaged footer is reported immediately. From a store, nothing is
        # fetched before it is needed.
        if isinstance(self.folder, Path):
            _ = self.row_groups

    def file(self, name: str) -> Path:
        """Returns the local path of a file of the data set.

        When a file is first requested, the whole file is read to compare its checksum.

        Raises:
            UserError: the file is missing or damaged.
        """
        return self._files.path(name)

    @property
    def scratch(self) -> Path:
        """A local folder for temporary files, on the disk of the data set or of the cache."""
        return self._files.scratch

    def catalogue(self, columns: list[str] | None = None) -> pa.Table:
        """Returns the table of `items.parquet`; row i is item i.

        Raises:
            UserError: the table does not have one of these columns.
        """
        # Columns are checked before the table is read, so that the message can suggest a name.
        file = self.folder / "items.parquet"
        names = self._files.schema("items.parquet").names
        for column in columns or []:
            if column not in names:
                raise UserError(
                    f"the catalogue {file} has no column '{column}': {nearest(column, names)}"
                )

        table = self._files.table("items.parquet", columns)
        if table.num_rows != self.items:
            raise UserError(
                f"{file} has {table.num_rows} rows instead of {self.items}: prepare again"
            )
        return table

    def content_table(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Returns columns of `content/<name>.parquet`; `read_content` reads the vectors.

        Raises:
            UserError: the data set has no content with this name.
        """
        return self._files.table(self.manifest.content_of(name).path, columns)

    def prior_pairs(self, name: str, entity: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the columns `entity` and `group` of `priors/<name>.parquet`.

        Args:
            name: the name of the prior.
            entity: the name of the first column: `item`, `event` or `user_id`.
        """
        table = self._files.table(f"priors/{name}.parquet", [entity, "group"])
        return table[entity].to_numpy(), table["group"].to_numpy()

    def user_pairs(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pairs of (user's number in file order, group) of a user prior.

        Users in the prior's file that the data set lacks are left out. During the call, the ids of
        all users are in memory.

        Raises:
            UserError: the prior's user ids have a different type from those of the sequences.
        """
        table = self._files.table(f"priors/{name}.parquet", ["user_id", "group"])
        users = pa.chunked_array(
            [chunk for group in self.row_groups for chunk in self.user_ids(group).chunks]
        )
        if users.type != table["user_id"].type:
            types = f"{table['user_id'].type}, but {users.type} in the sequences"
            raise UserError(
                f"prior '{name}': its user ids are of another type ({types}): "
                "prepare the data set again"
            )

        # The number is -1 for users of the prior's file that are not in the sequences.
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
        """Returns the prior whose groups are used to measure entropy and new interest."""
        return self.manifest.prior(self.manifest.category_prior)

    def read_users(self, group: RowGroup, columns: Sequence[str] = ()) -> Users:
        """Reads the users of a row group with the requested columns."""
        # The files store small types, but callers compute with int64.
        starts, values = self._lists(group, ["items", *columns])
        whole = {name: column.astype(np.int64) for name, column in values.items()}
        return Users(starts, whole.pop("items"), whole)

    def read_into(self, group: RowGroup, arrays: Columns) -> None:
        """Fills arrays with the columns of a row group. Several threads may do so at the same time.

        Args:
            arrays: the arrays to fill, by the name of the column.

        Raises:
            UserError: the row group cannot be read, or the lengths of its histories differ from
                `lengths`.
        """
        starts, values = self._lists(group, list(arrays))

        # The caller allocated the arrays according to `lengths`. If the file was replaced since
        # then, the lengths may differ.
        expected = self.lengths[group.first_user : group.first_user + group.users]
        if not np.array_equal(np.diff(starts), expected):
            raise UserError(
                f"{group.file} is not as it was when training began: prepare the data set again"
            )
        for name, array in arrays.items():
            array[:] = values[name]

    @cached_property
    def lengths(self) -> np.ndarray:
        """The number of items of each user's history, int32 [users], in file order.

        The lengths are read only once. If a file has no column `length`, they are computed from the
        list column that takes the fewest bytes.
        """
        lengths = np.empty(self.users, np.int32)
        with_column = {
            file
            for file, footer in self._footers.items()
            if _LENGTH in footer.metadata.schema.names
        }

        for group in self.row_groups:
            # This slice is a view, so writing to it fills in `lengths`.
            group_lengths = lengths[group.first_user : group.first_user + group.users]
            if group.file in with_column:
                group_lengths[:] = self._row_group(group, [_LENGTH])[_LENGTH].to_numpy()
            else:
                smallest = _smallest_list(self._footers[group.file].metadata.row_group(group.index))
                group_lengths[:] = np.diff(self._lists(group, [smallest])[0])
        return lengths

    @cached_property
    def training_ends(self) -> np.ndarray:
        """The number of training items of each history, int32 [users], in file order."""
        return self._ends(TRAINING_END, 2)

    @cached_property
    def validation_ends(self) -> np.ndarray:
        """The number of items before each history's test part, int32 [users], in file order."""
        return self._ends(VALIDATION_END, 1)

    def user_ids(self, group: RowGroup) -> pa.ChunkedArray:
        """Returns the original ids of the users of a row group."""
        return self._row_group(group, ["user_id"])["user_id"]

    def user_texts(self) -> pa.ChunkedArray:
        """Returns the original ids of all users as texts, in file order."""
        parts = [id_texts(self.user_ids(group), str(group.file)) for group in self.row_groups]
        return pa.chunked_array(parts, parts[0].type if parts else pa.string())

    def find_user(self, user_id: str, columns: Sequence[str] = ()) -> History:
        """Returns the whole history of the user with the original id `user_id`, given as a text.

        Raises:
            UserError: the data set has no such user.
        """
        # Only one row group is searched at a time, because the ids of all users may need too much
        # memory.
        for group in self.row_groups:
            index = pc.index(id_texts(self.user_ids(group), str(group.file)), user_id).as_py()
            if index >= 0:
                users = self.read_users(group, columns)
                return History(
                    users.history(index), users.columns_of(index), group.first_user + index
                )

        raise self.unknown_user(user_id)

    def unknown_user(self, user_id: str) -> UserError:
        """Returns the error for a user that the data set lacks."""
        if not self.manifest.has_users:
            return UserError(
                f"user: '{self.folder}' holds data set '{self.manifest.name}' without its users: "
                "give a history, or the whole data set (--data)"
            )
        if self._in_time:
            short = "with nothing to train on"
        else:
            short = f"of at most {2 * self.manifest.horizon} interactions"
        return UserError(
            f"user: data set '{self.manifest.name}' has no user {shown(user_id)} "
            f"(users {short} were left out: give a history)"
        )

    @cached_property
    def row_groups(self) -> list[RowGroup]:
        """The row groups of the sequences of all users."""
        # Users are numbered through all files, in the order in which the manifest lists the files.
        groups = []
        first = 0
        names = [info.path for info in self.manifest.files if info.path.startswith(SEQUENCES)]
        if not self.manifest.has_users:
            names = []
        for name, (file, footer) in zip(names, self._files.footers(names), strict=True):
            self._names[file] = name
            self._footers[file] = footer
            metadata = footer.metadata
            for index in range(metadata.num_row_groups):
                users = metadata.row_group(index).num_rows
                groups.append(RowGroup(file, index, users, first))
                first += users

        if first != self.users:
            raise UserError(
                f"{self.folder / 'sequences'} has {first} users instead of {self.users}: "
                "prepare again"
            )
        return groups

    def _ends(self, column: str, horizons: int) -> np.ndarray:
        """Returns the number of items before the end of a part, int32 [users].

        Args:
            column: the column that holds the number if the log is split by time.
            horizons: if the log is not split by time, the number of horizons from the end of the
                part to the end of the history.
        """
        # Each history is split separately: the last E items (E is the horizon) are for test, and
        # the E items before them are for validation.
        if not self._in_time:
            return self.lengths - np.int32(horizons * self.manifest.horizon)

        parts = [self._row_group(group, [column])[column].to_numpy() for group in self.row_groups]
        ends = np.concatenate(parts).astype(np.int32)
        if (ends < 0).any() or (ends > self.lengths).any():
            raise UserError(
                f"{self.folder / 'sequences'}: '{column}' is outside a user's history: "
                "prepare again"
            )
        return ends

    @property
    def _in_time(self) -> bool:
        """Whether the log is split by time. If it is not, each history is split separately."""
        return any(
            TRAINING_END in footer.metadata.schema.names for footer in self._footers.values()
        )

    def _lists(
        self, group: RowGroup, columns: list[str]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Reads list columns of a row group.

        Returns:
            The bounds of the users' lists, int64 [U + 1], and the values of each column, one user
            after another.

        Raises:
            UserError: the lists of a user differ in length, or contain items that the catalogue
                lacks.
        """
        table = self._row_group(group, columns)
        lists = {name: table[name].combine_chunks() for name in columns}

        # All columns share one set of bounds, so their lists must have the same lengths.
        starts = np.zeros(group.users + 1, np.int64)
        np.cumsum(_list_lengths(lists[columns[0]]), out=starts[1:])
        for name in columns[1:]:
            if not np.array_equal(_list_lengths(lists[name]), np.diff(starts)):
                raise UserError(
                    f"{group.file}: '{columns[0]}' and '{name}' of a user differ in length: "
                    "prepare again"
                )

        # Embedding lookups do not check row ids, so invalid ids must be rejected here.
        values = {name: column.flatten().to_numpy() for name, column in lists.items()}
        items = values.get("items", starts[:0])
        if len(items) and (items.min() < 0 or items.max() >= self.items):
            raise UserError(
                f"{group.file} names an item outside the catalogue of {self.items}: prepare again"
            )
        return starts, values

    def _row_group(self, group: RowGroup, columns: list[str]) -> pa.Table:
        """Returns the table of a row group."""
        footer = self._footers[group.file]
        return self._files.row_group(
            self._names[group.file], group.file, footer, group.index, columns
        )


def _list_lengths(lists: pa.ListArray) -> np.ndarray:
    """Returns the length of each list."""
    lengths: np.ndarray = lists.value_lengths().to_numpy(zero_copy_only=False)
    return lengths


def _smallest_list(group: Any) -> str:
    """Returns the name of the list column with the fewest bytes, the fastest source of lengths."""
    # Parquet calls the column of a list "items.list.element".
    columns = [group.column(number) for number in range(group.num_columns)]
    lists = [column for column in columns if column.path_in_schema.split(".")[0] in COLUMN_TYPES]
    name: str = min(lists, key=lambda column: column.total_compressed_size).path_in_schema
    return name.split(".")[0]
