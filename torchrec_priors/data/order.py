"""The global order of an epoch's training windows, and its division into global batches.

The order is determined by seed and epoch. Row groups are shuffled and taken a few at a time, as a
chunk; the windows of a chunk are shuffled together. So memory does not grow with the log. The order
is computed from the lengths of the users' histories (4 bytes for each user); no items are read.

In this order, the windows lie on a line, one after another. The length of a window is 1 if batches
have a number of windows, or its number of context items if batches have a budget of tokens. Q is
the quota of a batch, and batch s has the windows that end in (s Q, (s + 1) Q]. With Q = 5, windows
of lengths 3, 2, 4 and 3 end at 3, 5, 9 and 12. So the first two are in batch 0, the third is in
batch 1, and the last is in batch 2.

In any order, an epoch has ceil(length of the line / Q) batches, and each batch can be computed
without those before it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from torchrec_priors.common.splitmix import of_epoch, unit
from torchrec_priors.errors import UserError

# Distinguishes these draws from other uses of the seed.
_SHIFTS = 0x736869667473


@dataclass(frozen=True)
class Cuts:
    """The positions of some windows in their chunk; all arrays are int64 [n].

    Attributes:
        user: the index of each window's user in the file order of the data set.
        start: the index of each window's first item among the items of the chunk's row groups.
        length: the number of items in each window.
        context: the number of items in each window's context; later items are only targets.
    """

    user: np.ndarray
    start: np.ndarray
    length: np.ndarray
    context: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Cuts":
        return Cuts(
            self.user[chosen], self.start[chosen], self.length[chosen], self.context[chosen]
        )


@dataclass(frozen=True)
class Chunk:
    """Row groups with windows that are shuffled together.

    Attributes:
        epoch: the index of the epoch.
        groups: the numbers of the row groups, in the order of their items.
        items: the number of items in each row group.
        windows: the windows, in the order of the epoch.
        steps: the numbers of the batches that the windows are in, ascending.
        ends: for each of these batches, the index in `windows` at which it ends.
        may_continue: whether the last batch may also have windows of the next chunk.
    """

    epoch: int
    groups: list[int]
    items: list[int]
    windows: Cuts
    steps: list[int]
    ends: list[int]
    may_continue: bool


class WindowOrder:
    """The windows of all epochs, in chunks that can be requested starting at any step."""

    def __init__(
        self,
        length_U: np.ndarray,
        group_sizes: Sequence[int],
        *,
        context: int,
        horizon: int,
        training_end_U: np.ndarray,
        seed: int,
        shuffled_row_groups: int,
        batch: int,
        batch_tokens: int,
        moving: bool = False,
    ) -> None:
        """
        Args:
            length_U: the number of items in each user's history, in file order.
            group_sizes: the number of users in each row group.
            context: L, the largest number of items in a context.
            horizon: tau, the largest number of items after a context.
            training_end_U: for each user, the index at which the items for training end.
            seed: the seed of the order.
            shuffled_row_groups: the number of row groups in a chunk.
            batch: the number of windows in a global batch; 0 if `batch_tokens` is given.
            batch_tokens: the largest number of context items in a global batch; 0 if `batch` is
                given.
            moving: whether histories are cut at different places in every epoch. The number of
                windows stays the same.

        Raises:
            ValueError: neither or both of `batch` and `batch_tokens` are given.
            UserError: batches could be empty, because `batch_tokens` is too small.
        """
        if bool(batch) == bool(batch_tokens):
            raise ValueError(f"batch = {batch}, batch_tokens = {batch_tokens}: give one of the two")
        self.context = context
        self.horizon = horizon
        self.seed = seed
        self.shuffled_row_groups = shuffled_row_groups
        self._by_tokens = bool(batch_tokens)
        self._length_U = length_U
        self._end_U = training_end_U
        self._moving = moving
        self._bounds = np.cumsum([0, *group_sizes])

        # The last training item is in no context, so a user has one token fewer than training
        # items.
        tokens_and_windows = []
        longest = 0
        for group in range(len(group_sizes)):
            last = self._in_group(self._end_U, group) - 1
            tokens_and_windows.append((np.maximum(last, 0).sum(), self._window_counts(last).sum()))
            longest = max(longest, min(int(last.max(initial=0)), context))
        self._tokens_G, self._windows_G = np.array(tokens_and_windows, np.int64).T

        # A window is not divided between batches. So a batch may exceed its quota by the longest
        # context less one, and the quota is smaller than the budget by this amount. With a quota
        # shorter than the longest context, a batch could be empty.
        self._quota = batch or batch_tokens - longest + 1
        if self._quota < longest and self._by_tokens:
            raise UserError(
                f"training.batch_tokens = {batch_tokens} must be at least {2 * longest - 1}: "
                "twice the longest context less one"
            )

    @property
    def windows(self) -> int:
        """The number of windows in an epoch."""
        return int(self._windows_G.sum())

    @property
    def tokens(self) -> int:
        """The number of context items in an epoch."""
        return int(self._tokens_G.sum())

    @property
    def steps_an_epoch(self) -> int:
        """The number of global batches in an epoch."""
        return -(-int(self._line_G.sum()) // self._quota)

    def chunks(self, first_step: int) -> Iterator[Chunk]:
        """Yields the chunks with the windows of batch `first_step` and all later batches.

        There is no end: one epoch follows another. Windows of earlier batches are left out.
        """
        epoch, skipped = divmod(first_step, self.steps_an_epoch)
        yield from self._epoch(epoch, skipped)
        for later in itertools.count(epoch + 1):
            yield from self._epoch(later, 0)

    @property
    def _line_G(self) -> np.ndarray:
        """The total length of each row group's windows on the line."""
        return self._tokens_G if self._by_tokens else self._windows_G

    def _epoch(self, epoch: int, skipped: int) -> Iterator[Chunk]:
        """Yields the chunks of an epoch without its first `skipped` batches."""
        # The generator's key includes the epoch, so earlier epochs need not be drawn.
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        groups = random.permutation(len(self._windows_G))

        before = 0
        for first in range(0, len(groups), self.shuffled_row_groups):
            chosen = groups[first : first + self.shuffled_row_groups]
            # The order is drawn for skipped chunks, too, so that later chunks get the same numbers.
            order = random.permutation(int(self._windows_G[chosen].sum()))

            after = before + int(self._line_G[chosen].sum())
            if len(order) and after > skipped * self._quota:
                yield self._chunk(self._cut(chosen, epoch)[order], chosen, before, epoch, skipped)
            before = after

    def _chunk(
        self, windows: Cuts, groups: np.ndarray, before: int, epoch: int, skipped: int
    ) -> Chunk:
        """Makes a chunk from windows that are in the order of the epoch.

        Args:
            windows: all windows of the row groups.
            groups: the numbers of the row groups.
            before: the length of the epoch's line before the first window.
            epoch: the index of the epoch.
            skipped: the number of the epoch's first batches that are left out.
        """
        size = windows.context if self._by_tokens else np.ones(len(windows), np.int64)
        end = before + np.cumsum(size)

        # Only the windows of batch `skipped` and later batches are kept. A batch ends before a
        # window of the next batch.
        batch = (end - 1) // self._quota
        first = int(np.searchsorted(batch, skipped))
        windows = windows[first:]
        batch = batch[first:]
        ends = np.append(np.flatnonzero(np.diff(batch)) + 1, len(batch))

        # The last batch may continue in the next chunk if this chunk ends within its quota.
        line = int(self._line_G.sum())
        until = int(end[-1])
        return Chunk(
            epoch=epoch,
            groups=groups.tolist(),
            items=[int(self._in_group(self._length_U, group).sum()) for group in groups],
            windows=windows,
            steps=(epoch * self.steps_an_epoch + batch[ends - 1]).tolist(),
            ends=ends.tolist(),
            may_continue=until < line and until % self._quota > 0,
        )

    def _in_group(self, value_U: np.ndarray, group: int) -> np.ndarray:
        """Returns the values of the users in a row group, int64."""
        return value_U[self._bounds[group] : self._bounds[group + 1]].astype(np.int64)

    def _window_counts(self, last: np.ndarray) -> np.ndarray:
        """Counts the windows of each user, given the index of the user's last training item."""
        # ceil(last / L), as the last training item is in no context. For a user without training
        # items, `last` is -1.
        return np.maximum(0, -(-last // self.context))

    def _cut(self, groups: np.ndarray, epoch: int) -> Cuts:
        """Makes all windows of some row groups.

        A history is cut into contexts backwards, from the end of its training part. The context of
        its last window is shorter than L by the user's shift.
        """
        length_U = np.concatenate([self._in_group(self._length_U, group) for group in groups])
        number_U = np.concatenate([np.arange(*self._bounds[group : group + 2]) for group in groups])
        first_U = np.cumsum(length_U) - length_U
        last_U = np.concatenate([self._in_group(self._end_U, group) for group in groups]) - 1

        # L x (the number of windows) exceeds the number of items in contexts. A shift may use up
        # this excess without changing the number of windows.
        count_U = self._window_counts(last_U)
        shift_U = self._shifts(number_U, count_U * self.context - last_U, epoch)

        # The next arrays have one entry for each window. `nth` counts a user's windows from 0,
        # backwards from the last window.
        nth = np.arange(count_U.sum()) - np.repeat(np.cumsum(count_U) - count_U, count_U)
        last = np.repeat(last_U, count_U)
        border = last + np.repeat(shift_U, count_U) - nth * self.context
        end = np.minimum(border, last)
        start = np.maximum(0, border - self.context)
        return Cuts(
            user=np.repeat(number_U, count_U),
            start=np.repeat(first_U, count_U) + start,
            length=np.minimum(end + self.horizon, last + 1) - start,
            context=end - start,
        )

    def _shifts(self, number_U: np.ndarray, room_U: np.ndarray, epoch: int) -> np.ndarray:
        """Draws the number of items by which the context of each user's last window is shortened.

        It is drawn uniformly from 0 to the user's room, and depends only on seed, epoch and user.
        It is 0 if cuts do not move.

        Args:
            number_U: the index of each user in file order.
            room_U: the largest shift that leaves the number of windows unchanged.
            epoch: the index of the epoch.
        """
        if not self._moving:
            return np.zeros_like(number_U)
        drawn = unit(of_epoch(number_U, self.seed ^ _SHIFTS, epoch))
        return (drawn * (room_U + 1)).astype(np.int64)
