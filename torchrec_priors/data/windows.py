"""Training windows of a prepared data set, in one global order that is the same on every rank.

A window is an extended sequence: a context of up to L items, and up to tau items after it. For
example, a history of 7 training items with L = 3 and tau = 2 has two windows (the context is left
of the bar):

    history     a b c d e f g
    window      a b c|d e
    window            d e f|g

Contexts do not overlap. They are cut backwards from the end of a user's training part. So each
training item except the last is in exactly one context, and every position in a context has a next
item. This holds in each epoch, even if cuts move or ties are shuffled.

`order.py` defines the order of an epoch and its global batches, which do not depend on the number
of ranks. Each rank takes its share of every batch. A window keeps its number in the global batch,
so results do not depend on the rank that gets it.
"""

import itertools
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from torchrec_priors.data.balance import attention_cost, deal
from torchrec_priors.data.chunks import Part, read_chunks
from torchrec_priors.data.order import WindowOrder
from torchrec_priors.data.ties import Ties
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.users import Columns
from torchrec_priors.ranks.share import Share


@dataclass(frozen=True)
class Windows:
    """One rank's part of one global batch; it may be empty.

    Attributes:
        step: the index of the global batch, counted from the start of training.
        items: int64 row ids of the items in all extended sequences, one sequence after another.
        lengths: the number of items in each extended sequence.
        contexts: the number of items in each context; later items are only targets.
        numbers: the index of each window in the global batch.
        users: the index of each window's user in the file order of the data set.
        columns: the other requested columns, in the order of `items`.
    """

    step: int
    items: np.ndarray
    lengths: np.ndarray
    contexts: np.ndarray
    numbers: np.ndarray
    users: np.ndarray
    columns: Columns = field(default_factory=dict)


class WindowStream:
    """This rank's windows of global batch `first_step` and all later batches.

    There is no end: one epoch follows another.
    """

    def __init__(
        self,
        data: PreparedData,
        *,
        context: int,
        horizon: int,
        batch: int,
        seed: int,
        batch_tokens: int = 0,
        share: Share = Share(),
        balanced_for: int | None = None,
        shuffled_row_groups: int = 16,
        first_step: int = 0,
        columns: Sequence[str] = (),
        training_end_U: np.ndarray | None = None,
        moving: bool = False,
        shuffle_ties: bool = False,
        workers: int = 0,
    ) -> None:
        """
        Args:
            data: the prepared data set.
            context: L, the largest number of items in a context.
            horizon: tau, the number of next items that training predicts; it may differ from E, the
                number of targets in evaluation.
            batch: the number of windows in a global batch, over all ranks; 0 if `batch_tokens` is
                given.
            seed: the seed of the order.
            batch_tokens: the largest number of context items in a global batch, instead of a number
                of windows.
            share: this rank, and the number of ranks.
            balanced_for: the width of the model, if windows are assigned to ranks so that attention
                costs every rank about the same; None to give each rank a slice of the batch.
            shuffled_row_groups: the number of row groups that are in memory and whose windows are
                shuffled together.
            first_step: the index of the first global batch.
            columns: the columns of the sequences to read in addition to `items`.
            training_end_U: for each user, the index at which the items for training end; by default
                `data.training_ends`.
            moving: whether histories are cut at different places in every epoch (see
                `TrainingConfig.moving_windows`).
            shuffle_ties: whether a user's interactions with equal times are reordered in every
                epoch (see `Ties`).
            workers: the number of threads that decode row groups in advance (see `read_chunks`).

        Raises:
            UserError: no user has two training items; or `batch_tokens` is less than 2 n - 1, where
                n is the length of the longest context.
        """
        self.data = data
        self.share = share
        self.balanced_for = balanced_for
        self.first_step = first_step
        self.columns = tuple(columns)
        self.workers = workers

        if training_end_U is None:
            training_end_U = data.training_ends
        self._ties = Ties(data, training_end_U, seed) if shuffle_ties else None

        self.order = WindowOrder(
            data.lengths,
            [group.users for group in data.row_groups],
            context=context,
            horizon=horizon,
            training_end_U=training_end_U,
            seed=seed,
            shuffled_row_groups=shuffled_row_groups,
            batch=batch,
            batch_tokens=batch_tokens,
            moving=moving,
        )
        if self.order.windows == 0:
            raise UserError(
                f"data set '{data.manifest.name}': no user has two training interactions"
            )

    @property
    def windows(self) -> int:
        """The number of windows in an epoch."""
        return self.order.windows

    @property
    def steps_an_epoch(self) -> int:
        """The number of global batches in an epoch."""
        return self.order.steps_an_epoch

    def __iter__(self) -> Generator[Windows, None, None]:
        """Yields one batch after another. Close the iterator to end its threads."""
        # The parts of the current batch so far; the batch may continue in the next chunk.
        pending = list[Part]()
        pending_step = self.first_step
        chunks = read_chunks(
            self.data, self.order.chunks(self.first_step), self.columns, self.workers, self._ties
        )

        with closing(chunks):
            for chunk, columns in chunks:
                bounds = itertools.pairwise([0, *chunk.ends])
                for step, (start, end) in zip(chunk.steps, bounds, strict=True):
                    # The pending batch was already complete, as this chunk has no windows of it.
                    if pending and step > pending_step:
                        yield self._windows(pending_step, pending)
                        pending = []

                    pending.append(Part(chunk.windows[start:end], columns))
                    pending_step = step

                    is_complete = step < chunk.steps[-1] or not chunk.may_continue
                    if is_complete:
                        yield self._windows(step, pending)
                        pending = []

                # Pending parts are copied, so that they do not keep the whole chunk in memory while
                # the next chunk is read.
                pending = [part.detached() for part in pending]
                del chunk, columns

    def _windows(self, step: int, parts: list[Part]) -> Windows:
        """Reads this rank's windows of a batch, which consists of one or several parts."""
        # Every rank knows the contexts of the whole batch, so all compute the same assignment.
        numbers = self._own_numbers(np.concatenate([part.windows.context for part in parts]))

        # `numbers` are indices into the whole batch; `index` are those within a part.
        columns_of_parts = []
        cuts = []
        first = 0
        for part in parts:
            in_part = (numbers >= first) & (numbers < first + len(part.windows))
            index = numbers[in_part] - first
            columns_of_parts.append(part.read(index))
            cuts.append(part.windows[index])
            first += len(part.windows)

        # The result is in the order of `numbers`, as the parts are in the order of the batch.
        columns = {
            name: np.concatenate([values[name] for values in columns_of_parts])
            for name in ("items", *self.columns)
        }
        return Windows(
            step=step,
            items=columns.pop("items"),
            lengths=np.concatenate([windows.length for windows in cuts]),
            contexts=np.concatenate([windows.context for windows in cuts]),
            numbers=numbers,
            users=np.concatenate([windows.user for windows in cuts]),
            columns=columns,
        )

    def _own_numbers(self, context_B: np.ndarray) -> np.ndarray:
        """Returns the indices of this rank's windows in a global batch, ascending."""
        if self.balanced_for is None:
            return np.arange(len(context_B))[self.share.of(len(context_B))]
        rank_B = deal(attention_cost(context_B, self.balanced_for), self.share.world)
        return np.flatnonzero(rank_B == self.share.rank)
