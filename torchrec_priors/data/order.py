"""The one global order of an epoch's training windows, and where it is cut into global batches.

The order needs only the lengths of the users' histories: 4 bytes a user, and no item is read. It is
determined by (seed, epoch): row groups are shuffled and taken a few at a time, and the windows of
those few, a chunk, are shuffled together, so memory does not grow with the log.

Windows are on a line in that order, each as long as it counts: 1 if a batch is a number of windows,
the number of items of its context if a batch is a budget of tokens. Batch s has the windows that
end in (s Q, (s + 1) Q]. With Q = 5, windows of 3, 2, 4 and 3 end at 3, 5, 9 and 12: the first two
are in batch 0, the third is in batch 1, and the last in batch 2. So an epoch has
ceil(length of the line / Q) batches, whatever its order, and a batch can be computed without those
before it.
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
    """Windows, and where their items are; int64 [n] each.

    Attributes:
        user: number of each window's user, in file order of the data set.
        start: index of each window's first item in the row groups of its chunk, one group after
            another.
        length: number of items of the window.
        context: number of items of its context; the rest are targets only.
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
    """Row groups whose windows are shuffled together.

    Attributes:
        epoch: number of the epoch.
        groups: numbers of the row groups, in the order of their items.
        items: number of items of each row group.
        windows: the windows in the epoch's order.
        steps: the batches that the windows are in, ascending.
        ends: index at which each batch ends among the windows.
        may_continue: whether the last batch may have windows of the next chunk, too.
    """

    epoch: int
    groups: list[int]
    items: list[int]
    windows: Cuts
    steps: list[int]
    ends: list[int]
    may_continue: bool


class WindowOrder:
    """Chunks of windows from any step on, without end, epoch after epoch."""

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
            length_U: number of items of each user's history, in file order.
            group_sizes: number of users of each row group.
            context, horizon: L and tau of a window.
            training_end_U: number of items of each user that are trained on, from the first.
            batch: number of windows of a global batch; 0 if it has a budget of tokens.
            batch_tokens: the most context items of a global batch; 0 if it is a number of windows.
            moving: whether histories are cut at other places in every epoch, into the same number
                of windows.

        Raises:
            ValueError: neither or both of `batch` and `batch_tokens`.
            UserError: a budget under which batches could be empty.
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

        # The last training item is in no context, so a user has one token less than training items.
        tokens_and_windows = []
        longest = 0
        for group in range(len(group_sizes)):
            last = self._in_group(self._end_U, group) - 1
            tokens_and_windows.append((np.maximum(last, 0).sum(), self._window_counts(last).sum()))
            longest = max(longest, min(int(last.max(initial=0)), context))
        self._tokens_G, self._windows_G = np.array(tokens_and_windows, np.int64).T

        # Windows are not cut at a batch's bounds: a batch may exceed its part of the line by the
        # longest context less one. The quota leaves room for that, and must not be less than the
        # longest context, or a batch could be empty.
        self._quota = batch or batch_tokens - longest + 1
        if self._quota < longest and self._by_tokens:
            raise UserError(
                f"training.batch_tokens = {batch_tokens} must be at least {2 * longest - 1}: "
                "twice the longest context less one"
            )

    @property
    def windows(self) -> int:
        """The number of windows of an epoch."""
        return int(self._windows_G.sum())

    @property
    def steps_an_epoch(self) -> int:
        """The number of global batches of an epoch."""
        return -(-int(self._line_G.sum()) // self._quota)

    def chunks(self, first_step: int) -> Iterator[Chunk]:
        """Yields the chunks of batches `first_step`, `first_step + 1`, ...

        The windows of earlier batches are left out.
        """
        epoch, skipped = divmod(first_step, self.steps_an_epoch)
        yield from self._epoch(epoch, skipped)
        for later in itertools.count(epoch + 1):
            yield from self._epoch(later, 0)

    @property
    def _line_G(self) -> np.ndarray:
        """How long each row group's windows are on the line."""
        return self._tokens_G if self._by_tokens else self._windows_G

    def _epoch(self, epoch: int, skipped: int) -> Iterator[Chunk]:
        """Yields the chunks of an epoch without its first `skipped` batches."""
        # Counter-based, so the order of an epoch needs no draws of the epochs before it.
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        groups = random.permutation(len(self._windows_G))

        before = 0
        for first in range(0, len(groups), self.shuffled_row_groups):
            chosen = groups[first : first + self.shuffled_row_groups]
            # Drawn for skipped chunks, too: the later ones must get the same numbers.
            order = random.permutation(int(self._windows_G[chosen].sum()))

            after = before + int(self._line_G[chosen].sum())
            if len(order) and after > skipped * self._quota:
                yield self._chunk(self._cut(chosen, epoch)[order], chosen, before, epoch, skipped)
            before = after

    def _chunk(
        self, windows: Cuts, groups: np.ndarray, before: int, epoch: int, skipped: int
    ) -> Chunk:
        """The chunk of some windows, which are in their order.

        Args:
            before: how much of the epoch's line is before the first window.
        """
        size = windows.context if self._by_tokens else np.ones(len(windows), np.int64)
        end = before + np.cumsum(size)

        # Batches `skipped` and later are left; each ends where the next window has another batch.
        batch = (end - 1) // self._quota
        first = int(np.searchsorted(batch, skipped))
        windows = windows[first:]
        batch = batch[first:]
        ends = np.append(np.flatnonzero(np.diff(batch)) + 1, len(batch))

        # The last batch is open if the chunk ends within its part of the line.
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
        """The values of a row group's users, int64."""
        return value_U[self._bounds[group] : self._bounds[group + 1]].astype(np.int64)

    def _window_counts(self, last: np.ndarray) -> np.ndarray:
        """The number of windows of users whose last training item has this index."""
        # ceil(last / L), as the last training item is in no context. It is -1 without training
        # items.
        return np.maximum(0, -(-last // self.context))

    def _cut(self, groups: np.ndarray, epoch: int) -> Cuts:
        """All windows of some row groups.

        Each user's are cut backwards from the end of the training part; the last window is shorter
        than L by the user's shift.
        """
        length_U = np.concatenate([self._in_group(self._length_U, group) for group in groups])
        number_U = np.concatenate([np.arange(*self._bounds[group : group + 2]) for group in groups])
        first_U = np.cumsum(length_U) - length_U
        last_U = np.concatenate([self._in_group(self._end_U, group) for group in groups]) - 1

        # A shift may use what the last window lacks to L, so the number of windows stays.
        count_U = self._window_counts(last_U)
        shift_U = self._shifts(number_U, count_U * self.context - last_U, epoch)

        # From here on, one entry a window: `nth` counts a user's windows from the latest.
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
        """The number of items by which each user's last window is shorter than L in an epoch.

        Any number that leaves the same number of windows, all equally likely; 0 if cuts do not
        move. It depends only on seed, epoch and user.
        """
        if not self._moving:
            return np.zeros_like(number_U)
        drawn = unit(of_epoch(number_U, self.seed ^ _SHIFTS, epoch))
        return (drawn * (room_U + 1)).astype(np.int64)
