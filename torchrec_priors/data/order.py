"""The one global order of an epoch's training windows, and where it is cut into global batches.

Known from the lengths of the users' histories alone: 4 bytes a user, no item is read for it. The order follows from
(seed, epoch): row groups are shuffled, taken a few at a time, and the windows of those few, a chunk, are shuffled
together, so that memory does not grow with the log.

Windows lie on a line in that order, each as long as it counts: 1 where a batch is a number of windows, the items of its
context where it is a budget of tokens. Batch s has the windows that end in (s Q, (s + 1) Q]. So an epoch has
ceil(length of the line / Q) batches, whatever its order, and a batch is found without those before it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from torchrec_priors.common.splitmix import of_epoch, unit
from torchrec_priors.errors import UserError

_SHIFTS = 0x736869667473  # tells these draws from other uses of the seed


@dataclass(frozen=True)
class Cuts:
    """Windows, and where they lie; int64 [n] each.

    Attributes:
        user: number of each window's user, in file order of the data set.
        start: of each window among the items of its chunk's row groups, one group after another.
        length: items of the window.
        context: items of its context; the rest are targets only.
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
        epoch: that it is of.
        groups: numbers of the row groups, in the order in which their items lie.
        items: of each of them.
        windows: in the epoch's order.
        steps: the batches they are in, ascending.
        ends: where each batch ends among the windows.
        may_go_on: whether the last batch may have windows of the next chunk, too.
    """

    epoch: int
    groups: list[int]
    items: list[int]
    windows: Cuts
    steps: list[int]
    ends: list[int]
    may_go_on: bool


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
            length_U: items of each user's history, in file order.
            group_sizes: users of each row group.
            context, horizon: L and tau of a window.
            training_end_U: how many items of each are trained on, from the first.
            batch: windows of a global batch; 0 where it has a budget of tokens.
            batch_tokens: the most context items of a global batch; 0 where it is a number of windows.
            moving: whether histories are cut elsewhere in every epoch, into as many windows.

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
        tokens_and_windows = []
        longest = 0
        for group in range(len(group_sizes)):
            last = self._of(self._end_U, group) - 1
            tokens_and_windows.append((np.maximum(last, 0).sum(), self._counts(last).sum()))
            longest = max(longest, min(int(last.max(initial=0)), context))
        self._tokens_G, self._windows_G = np.array(tokens_and_windows, np.int64).T
        self._quota = batch or batch_tokens - longest + 1
        if self._quota < longest and self._by_tokens:
            raise UserError(
                f"training.batch_tokens = {batch_tokens} must be at least {2 * longest - 1}: twice the longest context"
                " less one"
            )

    @property
    def windows(self) -> int:
        """Of an epoch."""
        return int(self._windows_G.sum())

    @property
    def steps_an_epoch(self) -> int:
        return -(-int(self._on_the_line_G.sum()) // self._quota)

    def chunks(self, first_step: int) -> Iterator[Chunk]:
        """Those of batches `first_step`, `first_step + 1`, ...; the windows of earlier batches are left out."""
        epoch, skipped = divmod(first_step, self.steps_an_epoch)
        yield from self._epoch(epoch, skipped)
        for later in itertools.count(epoch + 1):
            yield from self._epoch(later, 0)

    @property
    def _on_the_line_G(self) -> np.ndarray:
        return self._tokens_G if self._by_tokens else self._windows_G

    def _epoch(self, epoch: int, skipped: int) -> Iterator[Chunk]:
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        groups = random.permutation(len(self._windows_G))
        before = 0
        for first in range(0, len(groups), self.shuffled_row_groups):
            chosen = groups[first : first + self.shuffled_row_groups]
            order = random.permutation(int(self._windows_G[chosen].sum()))
            after = before + int(self._on_the_line_G[chosen].sum())
            if len(order) and after > skipped * self._quota:
                yield self._chunk(self._cut(chosen, epoch)[order], chosen, before, epoch, skipped)
            before = after

    def _chunk(
        self, windows: Cuts, groups: np.ndarray, before: int, epoch: int, skipped: int
    ) -> Chunk:
        end = before + np.cumsum(
            windows.context if self._by_tokens else np.ones(len(windows), np.int64)
        )
        batch = (end - 1) // self._quota
        first = int(np.searchsorted(batch, skipped))
        windows = windows[first:]
        batch = batch[first:]
        ends = np.append(np.flatnonzero(np.diff(batch)) + 1, len(batch))
        in_all = int(self._on_the_line_G.sum())
        until = int(end[-1])
        return Chunk(
            epoch=epoch,
            groups=groups.tolist(),
            items=[int(self._of(self._length_U, group).sum()) for group in groups],
            windows=windows,
            steps=(epoch * self.steps_an_epoch + batch[ends - 1]).tolist(),
            ends=ends.tolist(),
            may_go_on=until < in_all and until % self._quota > 0,
        )

    def _of(self, value_U: np.ndarray, group: int) -> np.ndarray:
        return value_U[self._bounds[group] : self._bounds[group + 1]].astype(np.int64)

    def _counts(self, last: np.ndarray) -> np.ndarray:
        """Windows of each user whose last training item has this index; it is in no context."""
        return np.maximum(0, -(-last // self.context))

    def _cut(self, groups: np.ndarray, epoch: int) -> Cuts:
        """Every window of some row groups: each user's backwards from the end of the training part, the last of them
        shorter than L by the user's shift."""
        length_U = np.concatenate([self._of(self._length_U, group) for group in groups])
        number_U = np.concatenate([np.arange(*self._bounds[group : group + 2]) for group in groups])
        first_U = np.cumsum(length_U) - length_U
        last_U = np.concatenate([self._of(self._end_U, group) for group in groups]) - 1
        count_U = self._counts(last_U)
        shift_U = self._shifts(number_U, count_U * self.context - last_U, epoch)
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
        """By how many items each user's last window is shorter than L in an epoch: any number that leaves as many
        windows, alike often, or 0 where cuts do not move. It follows from seed, epoch and user alone."""
        if not self._moving:
            return np.zeros_like(number_U)
        return (unit(of_epoch(number_U, self.seed ^ _SHIFTS, epoch)) * (room_U + 1)).astype(
            np.int64
        )
