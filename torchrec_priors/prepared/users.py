"""Users of a prepared data set and their histories, as they are read from row groups."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# Maps the names of columns of the sequences to their values.
Columns = Mapping[str, np.ndarray]
# The types of these columns in the files.
COLUMN_TYPES = {"items": np.int32, "timestamps": np.int64, "events": np.int8}


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
