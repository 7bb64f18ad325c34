"""Training windows of a prepared data set, in one global order that every rank and worker knows.

A window is a context of up to L items and up to tau items after it, in one extended sequence; contexts do not overlap
and are cut backwards from the end of a user's training part, so that each training item but the last stands in
exactly one context and every position has a next item.

The order of an epoch follows from (seed, epoch): row groups are shuffled, taken a few at a time, and the windows of
those few are shuffled together, so that memory does not grow with the log. Global batch s is the s-th slice of that
order; a rank takes its share of every slice, whatever the number of ranks, and reads the row groups it needs.
"""

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from torchrec_priors.data.prepared import Columns, PreparedData, Users
from torchrec_priors.errors import UserError


@dataclass(frozen=True)
class Windows:
    """One rank's part of one global batch; it may be empty.

    Attributes:
        step: number of the global batch, counted from the start of training.
        items: int64 row ids of the extended sequences, one after another.
        lengths: items of each extended sequence.
        contexts: items of each context; the rest are targets only.
        numbers: index of each window within the global batch.
        users: number of each window's user, in file order of the data set.
        columns: what else was asked for, beside `items`.
    """

    step: int
    items: np.ndarray
    lengths: np.ndarray
    contexts: np.ndarray
    numbers: np.ndarray
    users: np.ndarray
    columns: Columns = field(default_factory=dict)


@dataclass(frozen=True)
class Share:
    """Which part of every global batch is ours."""

    rank: int = 0
    world: int = 1

    def of(self, size: int) -> slice:
        return slice(size * self.rank // self.world, size * (self.rank + 1) // self.world)


class WindowStream(IterableDataset):
    """Windows of this rank for global batches `first_step`, `first_step + 1`, ... without end, epoch after epoch.

    In a worker of a DataLoader it yields every workers-th batch, which the loader puts back in order.
    """

    def __init__(
        self,
        data: PreparedData,
        *,
        context: int,
        horizon: int,
        batch: int,
        seed: int,
        share: Share = Share(),
        shuffled_row_groups: int = 16,
        first_step: int = 0,
        columns: Sequence[str] = (),
        held_out: int | None = None,
    ) -> None:
        """
        Args:
            context: L.
            horizon: training's tau, which may differ from the data set's E.
            batch: windows of a global batch, over all ranks.
            shuffled_row_groups: row groups whose windows are shuffled together, and held in memory.
            columns: of the sequences, besides `items`.
            held_out: interactions at a user's end that are not trained on; by default validation and test, 2 E.

        Raises:
            UserError: no user has two training items.
        """
        super().__init__()
        self.data, self.context, self.horizon, self.batch = data, context, horizon, batch
        self.seed, self.share, self.first_step = seed, share, first_step
        self.shuffled_row_groups, self.columns = shuffled_row_groups, tuple(columns)
        held_out = 2 * data.manifest.horizon if held_out is None else held_out
        self._training_lengths = [data.read_users(group).lengths - held_out for group in data.row_groups]
        self.windows = sum(int(self._windows_of(group)[0].size) for group in range(len(data.row_groups)))
        if self.windows == 0:
            raise UserError(f"data set '{data.manifest.name}': no user has two training interactions")

    @property
    def steps_an_epoch(self) -> int:
        return -(-self.windows // self.batch)

    def __iter__(self) -> Iterator[Windows]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        cache: OrderedDict[int, Users] = OrderedDict()
        first_epoch, skipped = divmod(self.first_step, self.steps_an_epoch)
        step = self.first_step
        for epoch in itertools.count(first_epoch):
            for order in itertools.islice(self._global_batches(epoch), skipped, None):
                if (step - self.first_step) % workers == number:
                    yield self._read(step, order, cache)
                step += 1
            skipped = 0

    def _windows_of(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """(user, end of context) of every window of a row group."""
        last = self._training_lengths[group] - 1  # a context ends before the last training item
        counts = np.maximum(0, -(-last // self.context))
        user = np.repeat(np.arange(len(last)), counts)
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return user, last[user] - nth * self.context

    def _global_batches(self, epoch: int) -> Iterator[np.ndarray]:
        """Rows (row group, user, end) of each global batch of an epoch."""
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        groups = random.permutation(len(self.data.row_groups))
        waiting = np.empty((0, 3), np.int64)
        for start in range(0, len(groups), self.shuffled_row_groups):
            parts = [waiting]
            for group in groups[start : start + self.shuffled_row_groups]:
                user, end = self._windows_of(group)
                parts.append(np.stack([np.full_like(user, group), user, end], 1))
            fresh = np.concatenate(parts[1:])
            waiting = np.concatenate([waiting, fresh[random.permutation(len(fresh))]])
            whole = len(waiting) // self.batch * self.batch
            yield from np.split(waiting[:whole], whole // self.batch) if whole else ()
            waiting = waiting[whole:]
        if len(waiting):
            yield waiting

    def _read(self, step: int, order: np.ndarray, cache: "OrderedDict[int, Users]") -> Windows:
        mine = self.share.of(len(order))
        parts, contexts, owners = [], [], []
        others: dict[str, list[np.ndarray]] = {name: [] for name in self.columns}
        for group, user, end in order[mine]:
            users = self._users(group, cache)
            history, first = users.history(user), users.starts[user]
            start = max(0, end - self.context)
            after = min(end + self.horizon, self._training_lengths[group][user])
            parts.append(history[start:after])
            contexts.append(end - start)
            owners.append(self.data.row_groups[group].first_user + user)
            for name, values in others.items():
                values.append(users.columns[name][first + start : first + after])
        return Windows(
            step=step,
            items=flat(parts),
            lengths=np.array([len(part) for part in parts], np.int64),
            contexts=np.array(contexts, np.int64),
            numbers=np.arange(mine.start, mine.stop),
            users=np.array(owners, np.int64),
            columns={name: flat(values) for name, values in others.items()},
        )

    def _users(self, group: int, cache: "OrderedDict[int, Users]") -> Users:
        if group not in cache:
            cache[group] = self.data.read_users(self.data.row_groups[group], self.columns)
            if len(cache) > self.shuffled_row_groups + 1:
                cache.popitem(last=False)
        cache.move_to_end(group)
        return cache[group]


def flat(parts: list[np.ndarray]) -> np.ndarray:
    """Integers of several users, one after another."""
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
