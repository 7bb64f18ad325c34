"""Reads a prepared data set: its manifest, items, priors and row groups of user sequences.

manifest.json                    what the data set contains, and checksums (`manifest.py`)
items.parquet                    row i is item i: its id, its training frequency, its attributes
sequences/part-*.parquet         a row for each user: items, times and events, in order of time
priors/NAME.parquet              pairs of an item, a user or an event, and its group
priors/NAME.eligible.parquet     the items that each group of an event prior may retrieve
content/NAME.parquet             vectors that describe items (`content.py`)
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError, nearest, shown
from torchrec_priors.prepared.checked_files import CheckedFiles
from torchrec_priors.prepared.id_files import as_numbers
from torchrec_priors.prepared.id_texts import id_texts
from torchrec_priors.prepared.manifest import Manifest, PriorInfo
from torchrec_priors.prepared.sequences import TRAINING_END, VALIDATION_END, Sequences
from torchrec_priors.prepared.users import Columns, History, RowGroup, Users
from torchrec_priors.remote.uri import Place, place_of

log = logging.getLogger(__name__)


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
        self._sequences = Sequences(self._files, self.folder)

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
        starts, values = self._sequences.lists(group, ["items", *columns])
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
        starts, values = self._sequences.lists(group, list(arrays))

        # The caller allocated the arrays according to `lengths`. If the file was replaced since
        # then, the lengths may differ.
        expected = self.lengths[group.first_user : group.first_user + group.users]
        if not np.array_equal(np.diff(starts), expected):
            raise UserError(
                f"{group.file} is not as it was when training began: prepare the data set again"
            )
        for name, array in arrays.items():
            array[:] = values[name]

    @property
    def row_groups(self) -> list[RowGroup]:
        """The row groups of the sequences of all users."""
        return self._sequences.row_groups

    @property
    def lengths(self) -> np.ndarray:
        """The number of items of each user's history, int32 [users], in file order."""
        return self._sequences.lengths

    @cached_property
    def training_ends(self) -> np.ndarray:
        """The number of training items of each history, int32 [users], in file order."""
        return self._sequences.ends(TRAINING_END, 2)

    @cached_property
    def validation_ends(self) -> np.ndarray:
        """The number of items before each history's test part, int32 [users], in file order."""
        return self._sequences.ends(VALIDATION_END, 1)

    def user_ids(self, group: RowGroup) -> pa.ChunkedArray:
        """Returns the original ids of the users of a row group."""
        return self._sequences.table(group, ["user_id"])["user_id"]

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
        if self._sequences.in_time:
            short = "with nothing to train on"
        else:
            short = f"of at most {2 * self.manifest.horizon} interactions"
        return UserError(
            f"user: data set '{self.manifest.name}' has no user {shown(user_id)} "
            f"(users {short} were left out: give a history)"
        )
