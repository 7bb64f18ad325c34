"""Users to be evaluated or served, in batches that do not depend on the number of ranks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from torchrec_priors.prepared.data_set import Columns, PreparedData
from torchrec_priors.ranks.share import Share

Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Histories:
    """A batch of U users; jagged arrays hold one user's entries after another's.

    Attributes:
        user_ids: original ids.
        items, lengths: the last L items before the targets.
        seen, seen_lengths: every item before the targets.
        targets, target_lengths: the E items to be predicted, in time order; repeats are kept.
        columns: the other requested columns, in the order of `items`.
        users: the users' numbers in file order of the data set; -1 for unknown users.
        target_columns: the requested columns in the order of `targets`.
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
        """A batch of lists with one entry a user.

        Args:
            context: L.
            columns: columns in the order of `seen`.
            users: the users' numbers; None if they are unknown.
            target_columns: columns in the order of `targets`.
        """
        # `items` and `columns` are cut to the last L; `seen` and `targets` are whole.
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


def target_bounds(data: PreparedData, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The (first, end) index of each user's targets in the history, int64 [users] each.

    The targets are the first E items of the split's part.
    """
    # Validation is between the training and the test part, the test part is last.
    if split == "validation":
        start = data.training_ends.astype(np.int64)
        end = data.validation_ends.astype(np.int64)
    else:
        start = data.validation_ends.astype(np.int64)
        end = data.lengths.astype(np.int64)
    return start, np.minimum(start + data.manifest.horizon, end)


def users_of(data: PreparedData, split: Split | None) -> np.ndarray:
    """Which users have both a history and targets, bool [users].

    These are all users if each history is split by itself, or if `split` is None.
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
    """Yields users of a split in file order, `batch` at a time.

    Batch i belongs to rank i mod world. Every rank yields the same number of batches, so all take
    part in every collective: the last one of some ranks is empty. A user is always in the same
    batch with the same other users, so results are equal to the last bit on any number of ranks.

    Args:
        split: the part whose targets are held out; None gives whole histories without targets.
        context: L.
        columns: columns of the sequences to read in addition to `items`.
        target_columns: columns of the sequences to read in addition to `targets`.
        chosen: bool by user in file order, the users to include; None for all.
    """
    wanted_U = users_of(data, split)
    if chosen is not None:
        wanted_U = chosen & wanted_U

    # The ids of an empty batch have the type of the data set's ids.
    nobody = data.user_ids(data.row_groups[0]).combine_chunks().slice(0, 0)
    empty = _to_batch(nobody, [], context, columns, target_columns)

    # All ranks read all users and count the batches alike; each builds only its own.
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

        # A round is over when each rank had its turn, or when no users are left.
        if turn == share.world - 1 or not users_left:
            yield own_batch
            own_batch = empty


@dataclass(frozen=True)
class _User:
    """A user's history, cut into what was seen and what is to be predicted.

    Attributes:
        number: index in file order of the data set.
        columns: columns in the order of `seen`.
        target_columns: columns in the order of `targets`.
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
    """Yields the wanted users in file order; a row group without any is not read."""
    bounds = None if split is None else target_bounds(data, split)
    # A column may be asked for both parts of the history; it is read once.
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

            # Without a split, all of the history is seen, and nothing is left for targets.
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
    """Some users as one batch."""
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
    """Integers of several users, one user after another."""
    if not by_user:
        return np.empty(0, np.int64)
    return np.concatenate(by_user)


def _lengths(by_user: list[np.ndarray]) -> np.ndarray:
    """The number of entries of each user, int64."""
    return np.array([len(values) for values in by_user], np.int64)
