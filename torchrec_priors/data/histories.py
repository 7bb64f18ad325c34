"""Users to be evaluated or served: history, targets and everything seen, in batches that do not depend on the ranks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from torchrec_priors.data.prepared import Columns, PreparedData
from torchrec_priors.data.windows import Share, flat

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
    ) -> "Histories":
        """One entry a user of each list; `columns` stand beside `seen`; users without a number are not known."""
        recent = [items[-context:] for items in seen]
        lengths = [np.array([len(items) for items in part], np.int64) for part in (recent, seen, targets)]
        beside = {name: flat([part[-context:] for part in parts]) for name, parts in (columns or {}).items()}
        numbers = np.full(len(seen), -1) if users is None else np.array(users, np.int64)
        return cls(
            user_ids, flat(recent), lengths[0], flat(seen), lengths[1], flat(targets), lengths[2], numbers, beside
        )


def history_batches(
    data: PreparedData,
    split: Split | None,
    *,
    context: int,
    batch: int,
    share: Share = Share(),
    columns: Sequence[str] = (),
    chosen: np.ndarray | None = None,
) -> Iterator[Histories]:
    """Users in file order, `batch` at a time; batch i belongs to rank i mod world.

    Every rank yields the same number of batches, so that all take part in every collective: the last of some ranks are
    empty. A user always stands in the same batch beside the same others, so that results are the same to the last
    bit on any number of ranks.

    Args:
        split: whose targets are held out; None gives whole histories without targets.
        columns: of the sequences, besides `items`.
        chosen: bool by user, in file order, who is wanted; None for everyone.
    """
    held_out = {"validation": 2 * data.manifest.horizon, "test": data.manifest.horizon, None: 0}[split]
    wanted = data.manifest.horizon if split else 0
    users_left = data.users if chosen is None else int(chosen.sum())
    nobody = data.user_ids(data.row_groups[0]).combine_chunks().slice(0, 0)
    empty = Histories.of(nobody, [], [], context, {name: [] for name in columns})
    mine, number = empty, -1
    ids: list[pa.Array] = []
    numbers: list[int] = []
    seen: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    others: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for group in data.row_groups:
        here = np.arange(group.users)
        if chosen is not None:
            here = here[chosen[group.first_user : group.first_user + group.users]]
        if not len(here):
            continue
        users = data.read_users(group, columns)
        column = data.user_ids(group).combine_chunks()
        for user in here.tolist():
            history = users.history(user)
            end = len(history) - held_out
            ids.append(column[user])
            numbers.append(group.first_user + user)
            seen.append(history[:end])
            targets.append(history[end : end + wanted])
            for name, values in users.columns_of(user).items():
                others[name].append(values[:end])
            users_left -= 1
            if len(ids) == batch or not users_left:
                number += 1
                if number % share.world == share.rank:
                    mine = Histories.of(pa.array(ids, column.type), seen, targets, context, others, numbers)
                ids, numbers, seen, targets, others = [], [], [], [], {name: [] for name in columns}
                if number % share.world == share.world - 1 or not users_left:
                    yield mine
                    mine = empty
