"""Reads the sequences of users in a prepared data set, row group by row group.

Users are numbered through all files, in the order in which the manifest lists the files.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from torchrec_priors.errors import UserError
from torchrec_priors.parquet import Footer
from torchrec_priors.prepared.checked_files import CheckedFiles
from torchrec_priors.prepared.manifest import SEQUENCES
from torchrec_priors.prepared.users import COLUMN_TYPES, RowGroup
from torchrec_priors.remote.uri import Place

# The sequences have these columns if the log is split by time. They hold the number of the user's
# items before the end of the training part and of the validation part.
TRAINING_END = "training_end"
VALIDATION_END = "validation_end"

# A file may store the length of each user's history in this column. Most files do not have it.
_LENGTH = "length"


class Sequences:
    """The sequences of a data set, which are read by row group. Several threads may do so.

    Raises:
        UserError: from every call, if a file is missing, damaged, or not as the manifest says.
    """

    def __init__(self, files: CheckedFiles, folder: Place) -> None:
        """
        Args:
            files: the files of the data set.
            folder: its folder, for messages.
        """
        self._files = files
        self._folder = folder
        self._manifest = files.manifest
        self._items: int = files.manifest.counts["items"]
        self._users: int = files.manifest.counts["users"] if files.manifest.has_users else 0

    @cached_property
    def row_groups(self) -> list[RowGroup]:
        """The row groups of the sequences of all users."""
        groups = []
        first = 0
        for file, footer in self._footers.items():
            for index in range(footer.metadata.num_row_groups):
                users = footer.metadata.row_group(index).num_rows
                groups.append(RowGroup(file, index, users, first))
                first += users

        if first != self._users:
            raise UserError(
                f"{self._folder / 'sequences'} has {first} users instead of {self._users}: "
                "prepare again"
            )
        return groups

    @cached_property
    def lengths(self) -> np.ndarray:
        """The number of items of each user's history, int32 [users], in file order.

        The lengths are read only once. If a file has no column `length`, they are computed from the
        list column that takes the fewest bytes.
        """
        lengths = np.empty(self._users, np.int32)
        with_column = {
            file
            for file, footer in self._footers.items()
            if _LENGTH in footer.metadata.schema.names
        }

        for group in self.row_groups:
            # This slice is a view, so writing to it fills in `lengths`.
            group_lengths = lengths[group.first_user : group.first_user + group.users]
            if group.file in with_column:
                group_lengths[:] = self.table(group, [_LENGTH])[_LENGTH].to_numpy()
            else:
                smallest = _smallest_list(self._footers[group.file].metadata.row_group(group.index))
                group_lengths[:] = np.diff(self.lists(group, [smallest])[0])
        return lengths

    def ends(self, column: str, horizons: int) -> np.ndarray:
        """Returns the number of items before the end of a part, int32 [users].

        Args:
            column: the column that holds the number if the log is split by time.
            horizons: if the log is not split by time, the number of horizons from the end of the
                part to the end of the history.
        """
        # Each history is split separately: the last E items (E is the horizon) are for test, and
        # the E items before them are for validation.
        if not self.in_time:
            return self.lengths - np.int32(horizons * self._manifest.horizon)

        parts = [self.table(group, [column])[column].to_numpy() for group in self.row_groups]
        ends = np.concatenate(parts).astype(np.int32)
        if (ends < 0).any() or (ends > self.lengths).any():
            raise UserError(
                f"{self._folder / 'sequences'}: '{column}' is outside a user's history: "
                "prepare again"
            )
        return ends

    @property
    def in_time(self) -> bool:
        """Whether the log is split by time. If it is not, each history is split separately."""
        return any(
            TRAINING_END in footer.metadata.schema.names for footer in self._footers.values()
        )

    def lists(
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
        table = self.table(group, columns)
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
        if len(items) and (items.min() < 0 or items.max() >= self._items):
            raise UserError(
                f"{group.file} names an item outside the catalogue of {self._items}: prepare again"
            )
        return starts, values

    def table(self, group: RowGroup, columns: list[str]) -> pa.Table:
        """Returns the table of a row group."""
        file = group.file
        return self._files.row_group(
            self._names[file], file, self._footers[file], group.index, columns
        )

    @cached_property
    def _names(self) -> dict[Path, str]:
        """The names of the files in the manifest, in its order, by their local paths."""
        return dict(zip(self._footers, self._names_in_manifest(), strict=True))

    @cached_property
    def _footers(self) -> dict[Path, Footer]:
        """The footers of the files, in the order of the manifest; read when first needed."""
        return dict(self._files.footers(self._names_in_manifest()))

    def _names_in_manifest(self) -> list[str]:
        if not self._manifest.has_users:
            return []
        return [info.path for info in self._manifest.files if info.path.startswith(SEQUENCES)]


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
