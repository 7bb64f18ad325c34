"""Batches of users for evaluation and serving, which do not depend on the number of ranks.

Shapes: L most recent items of a history (the context), E targets (the horizon of the data set).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.users import Columns
from torchrec_priors.ranks.share import Share

Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Histories:
    """A batch of users with their histories and targets.

    In all arrays of items, the entries of one user follow those of the user before.

    Attributes:
        user_ids: the original ids of the users.
        items, lengths: for each user, the last L items before the targets, or all items if there
            are fewer; and their number.
        seen, seen_lengths: all items before the targets, and their number for each user.
        targets, target_lengths: the items to be predicted, at most E for each user in time order,
            and their number. An item may occur several times.
        columns: the other requested columns, in the order of `items`.
        users: the indices of the users in the file order of the data set; -1 for unknown users.
        target_columns: the requested columns, in the order of `targets`.
    """

    user_ids: pa.Array
    items: np.ndarray
    lengths: np.ndarray
    seen: np.ndarray
    seen_lengths: np.ndarray
    targets: np.ndarray
    target_lengths: np.ndarray
    users: np.ndarray
    columns: Columns = field(default_factory=dict)
    target_columns: Columns = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lengths)

    def chosen(self, users: Sequence[int]) -> "Histories":
        """Returns some of the users, given by their positions, in this order."""
        number = list(users)
        return Histories(
            user_ids=self.user_ids.take(pa.array(number, pa.int64())),
            items=_of_users(self.items, self.lengths, number),
            lengths=self.lengths[number],
            seen=_of_users(self.seen, self.seen_lengths, number),
            seen_lengths=self.seen_lengths[number],
            targets=_of_users(self.targets, self.target_lengths, number),
            target_lengths=self.target_lengths[number],
            users=self.users[number],
            columns={
                name: _of_users(values, self.lengths, number)
                for name, values in self.columns.items()
            },
            target_columns={
                name: _of_users(values, self.target_lengths, number)
                for name, values in self.target_columns.items()
            },
        )

    @classmethod
    def of(
        cls,
        user_ids: pa.Array,
        seen: list[np.ndarray],
        targets: list[np.ndarray],
        context: int,
        columns: Mapping[str, list[np.ndarray]] | None = None,
        users: Sequence[int] | None = None,
        target_columns: Mapping[str, list[np.ndarray]] | None = None,
    ) -> "Histories":
        """Makes a batch from lists that have one entry for each user.

        Args:
            user_ids: the original ids of the users.
            seen: all items before the targets.
            targets: the items to be predicted.
            context: L, the number of most recent items to keep in `items` and `columns`.
            columns: other columns, in the order of `seen`.
            users: the numbers of the users; None if the users are unknown.
            target_columns: other columns, in the order of `targets`.
        """
        recent = [items[-context:] for items in seen]
        columns = columns or {}
        target_columns = target_columns or {}
        numbers = np.full(len(seen), -1) if users is None else np.array(users, np.int64)

        return cls(
            user_ids=user_ids,
            items=_flat(recent),
            lengths=_lengths(recent),
            seen=_flat(seen),
            seen_lengths=_lengths(seen),
            targets=_flat(targets),
            target_lengths=_lengths(targets),
            users=numbers,
            columns={
                name: _flat([values[-context:] for values in by_user])
                for name, by_user in columns.items()
            },
            target_columns={name: _flat(by_user) for name, by_user in target_columns.items()},
        )


def _of_users(values: np.ndarray, lengths: np.ndarray, users: Sequence[int]) -> np.ndarray:
    """Returns the entries of some users, in the given order.

    Args:
        values: the entries of one user after another.
        lengths: the number of entries of each user.
        users: the users, as positions.
    """
    ends = np.cumsum(lengths)
    parts = [values[ends[user] - lengths[user] : ends[user]] for user in users]
    return np.concatenate([values[:0], *parts])


def target_bounds(data: PreparedData, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the targets of each user start and end in the history: int64 [users] each.

    The targets are the first E items in the split's part of the history.
    """
    # The training part is followed by the validation part, and then by the test part.
    if split == "validation":
        start = data.training_ends.astype(np.int64)
        end = data.validation_ends.astype(np.int64)
    else:
        start = data.validation_ends.astype(np.int64)
        end = data.lengths.astype(np.int64)
    return start, np.minimum(start + data.manifest.horizon, end)


def users_of(data: PreparedData, split: Split | None) -> np.ndarray:
    """Returns bool [users]: whether a user has both a history and targets in the split.

    This holds for all users if each history is split separately, or if `split` is None.
    """
    if split is None:
        return np.ones(data.users, bool)
    start, end = target_bounds(data, split)
    return (start > 0) & (end > start)


def history_batches(
    data: PreparedData,
    split: Split | None,
    *,
    context: int,
    batch: int,
    share: Share = Share(),
    columns: Sequence[str] = (),
    target_columns: Sequence[str] = (),
    chosen: np.ndarray | None = None,
) -> Iterator[Histories]:
    """Yields this rank's batches of users, in file order.

    Batch i belongs to rank i mod the number of ranks. Every rank yields the same number of batches,
    so that all ranks take part in every collective. The last batch of some ranks may be empty. A
    user is always in a batch with the same other users, so results are equal to the last bit on any
    number of ranks.

    Args:
        data: the prepared data set.
        split: the part of the histories with the targets; None for whole histories without targets.
        context: L, the number of most recent items of each history to keep in `items`.
        batch: the number of users in a batch.
        share: this rank, and the number of ranks.
        columns: the columns of the sequences to read in addition to `items`.
        target_columns: the columns of the sequences to read in addition to `targets`.
        chosen: bool for each user in file order, whether to include the user; None for all users.
    """
    wanted_U = users_of(data, split)
    if chosen is not None:
        wanted_U = chosen & wanted_U

    # An empty batch must have ids of the same type as the data set.
    no_ids = data.user_ids(data.row_groups[0]).combine_chunks().slice(0, 0)
    empty = _to_batch(no_ids, [], context, columns, target_columns)

    # Every rank reads all users and counts all batches, but makes only its own batches.
    own_batch = empty
    pending: list[_User] = []
    number = 0
    users_left = int(wanted_U.sum())
    for user in _wanted_users(data, split, wanted_U, columns, target_columns):
        pending.append(user)
        users_left -= 1
        if len(pending) < batch and users_left:
            continue

        turn = number % share.world
        if turn == share.rank:
            ids = pa.array([user.user_id for user in pending], user.user_id.type)
            own_batch = _to_batch(ids, pending, context, columns, target_columns)
        pending = []
        number += 1

        # A round ends when every rank has had a batch, or when no users are left.
        if turn == share.world - 1 or not users_left:
            yield own_batch
            own_batch = empty


@dataclass(frozen=True)
class _User:
    """A user's history, divided into items before the targets and targets.

    Attributes:
        user_id: the original id.
        number: the index of the user in the file order of the data set.
        seen: all items before the targets.
        targets: the items to be predicted.
        columns: the other requested columns, in the order of `seen`.
        target_columns: the requested columns, in the order of `targets`.
    """

    user_id: pa.Scalar
    number: int
    seen: np.ndarray
    targets: np.ndarray
    columns: Columns
    target_columns: Columns


def _wanted_users(
    data: PreparedData,
    split: Split | None,
    wanted_U: np.ndarray,
    columns: Sequence[str],
    target_columns: Sequence[str],
) -> Iterator[_User]:
    """Yields the wanted users in file order. A row group without such users is not read."""
    bounds = None if split is None else target_bounds(data, split)
    # A column may be requested for both `seen` and `targets`; it is read once.
    columns_read = list(dict.fromkeys([*columns, *target_columns]))

    for group in data.row_groups:
        wanted = np.flatnonzero(wanted_U[group.first_user : group.first_user + group.users])
        if not len(wanted):
            continue

        users = data.read_users(group, columns_read)
        user_ids = data.user_ids(group).combine_chunks()
        for index in wanted.tolist():
            number = group.first_user + index
            history = users.history(index)
            values = users.columns_of(index)

            # Without a split, the whole history is in `seen`, and there are no targets.
            if bounds is None:
                start = len(history)
                end = start
            else:
                start = int(bounds[0][number])
                end = int(bounds[1][number])

            yield _User(
                user_id=user_ids[index],
                number=number,
                seen=history[:start],
                targets=history[start:end],
                columns={name: values[name][:start] for name in columns},
                target_columns={name: values[name][start:end] for name in target_columns},
            )


def _to_batch(
    user_ids: pa.Array,
    users: list[_User],
    context: int,
    columns: Sequence[str],
    target_columns: Sequence[str],
) -> Histories:
    """Makes a batch of some users."""
    return Histories.of(
        user_ids,
        [user.seen for user in users],
        [user.targets for user in users],
        context,
        {name: [user.columns[name] for user in users] for name in columns},
        [user.number for user in users],
        {name: [user.target_columns[name] for user in users] for name in target_columns},
    )


def _flat(by_user: list[np.ndarray]) -> np.ndarray:
    """Concatenates the integers of several users."""
    if not by_user:
        return np.empty(0, np.int64)
    return np.concatenate(by_user)


def _lengths(by_user: list[np.ndarray]) -> np.ndarray:
    """Returns the number of entries of each user, int64."""
    return np.array([len(values) for values in by_user], np.int64)
