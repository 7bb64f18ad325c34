"""Users to be evaluated or served: history, targets and everything seen, in batches that do not depend on the ranks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from torchrec_priors.data.windows import flat
from torchrec_priors.prepared.data_set import Columns, PreparedData
from torchrec_priors.ranks.share import Share

Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Histories:
    """A batch of U users; jagged arrays are one user's entries after another's.

    Attributes:
        user_ids: original ids.
        items, lengths: the last L items before the targets.
        seen, seen_lengths: every item before the targets.
        targets, target_lengths: the E items to be predicted, in time order; repeats are kept.
        columns: what else was asked for, beside `items`.
        users: the users' numbers in file order of the data set; -1 for those who are not known.
        target_columns: what was asked for beside `targets`.
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
        """One entry a user of each list; `columns` stand beside `seen`; users without a number are not known."""
        recent = [items[-context:] for items in seen]
        lengths = [
            np.array([len(items) for items in part], np.int64) for part in (recent, seen, targets)
        ]
        beside = {
            name: flat([part[-context:] for part in parts])
            for name, parts in (columns or {}).items()
        }
        numbers = np.full(len(seen), -1) if users is None else np.array(users, np.int64)
        ahead = {name: flat(parts) for name, parts in (target_columns or {}).items()}
        return cls(
            user_ids,
            flat(recent),
            lengths[0],
            flat(seen),
            lengths[1],
            flat(targets),
            lengths[2],
            numbers,
            beside,
            ahead,
        )


def target_bounds(data: PreparedData, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """int64 [users] each: where a user's targets begin and end in the history: the first E of the split's part."""
    validation = split == "validation"
    start = (data.training_ends if validation else data.validation_ends).astype(np.int64)
    end = (data.validation_ends if validation else data.lengths).astype(np.int64)
    return start, np.minimum(start + data.manifest.horizon, end)


def users_of(data: PreparedData, split: Split | None) -> np.ndarray:
    """bool [users]: who has a history and targets; everyone where users are split one by one, or nothing is."""
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
    """Users of a split in file order, `batch` at a time; batch i belongs to rank i mod world.

    Every rank yields the same number of batches, so that all take part in every collective: the last of some ranks are
    empty. A user always stands in the same batch beside the same others, so that results are the same to the last
    bit on any number of ranks.

    Args:
        split: whose targets are held out; None gives whole histories without targets.
        columns: of the sequences, besides `items`.
        target_columns: of the sequences, besides `targets`.
        chosen: bool by user, in file order, who is wanted; None for everyone.
    """
    bounds = None if split is None else target_bounds(data, split)
    wanted_U = users_of(data, split) if chosen is None else chosen & users_of(data, split)
    users_left = int(wanted_U.sum())
    nobody = data.user_ids(data.row_groups[0]).combine_chunks().slice(0, 0)
    nothing: dict[str, list[np.ndarray]] = {name: [] for name in target_columns}
    empty = Histories.of(
        nobody, [], [], context, {name: [] for name in columns}, target_columns=nothing
    )
    mine = empty
    number = -1
    ids: list[pa.Array] = []
    numbers: list[int] = []
    seen: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    others: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    ahead: dict[str, list[np.ndarray]] = {name: [] for name in target_columns}
    read = list(dict.fromkeys([*columns, *target_columns]))
    for group in data.row_groups:
        here = np.flatnonzero(wanted_U[group.first_user : group.first_user + group.users])
        if not len(here):
            continue
        users = data.read_users(group, read)
        column = data.user_ids(group).combine_chunks()
        for user in here.tolist():
            history = users.history(user)
            user_number = group.first_user + user
            start, end = (
                (len(history), None)
                if bounds is None
                else (int(bound[user_number]) for bound in bounds)
            )
            ids.append(column[user])
            numbers.append(user_number)
            seen.append(history[:start])
            targets.append(history[start:end])
            beside = users.columns_of(user)
            for name, values in others.items():
                values.append(beside[name][:start])
            for name, values in ahead.items():
                values.append(beside[name][start:end])
            users_left -= 1
            if len(ids) == batch or not users_left:
                number += 1
                if number % share.world == share.rank:
                    mine = Histories.of(
                        pa.array(ids, column.type), seen, targets, context, others, numbers, ahead
                    )
                ids = []
                numbers = []
                seen = []
                targets = []
                others = {name: [] for name in columns}
                ahead = {name: [] for name in target_columns}
                if number % share.world == share.world - 1 or not users_left:
                    yield mine
                    mine = empty
