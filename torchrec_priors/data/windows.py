"""Training windows of a prepared data set, in one global order that every rank knows.

A window is a context of up to L items and up to tau items after it, in one extended sequence.
Contexts do not overlap and are cut backwards from the end of a user's training part, so each
training item but the last is in exactly one context and every position has a next item. This holds
in each epoch, also when the cuts move or ties change places from epoch to epoch. A history of 7
training items with L = 3 and tau = 2 has two windows (left of the bar is the context):

    history     a b c d e f g
    window      a b c|d e
    window            d e f|g

`order` defines the order of an epoch and its global batches, whatever the number of ranks; a rank
takes its share of every batch. A window keeps its number in the global batch, so nothing depends on
the rank that has it.
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
from torchrec_priors.prepared.data_set import Columns, PreparedData
from torchrec_priors.ranks.share import Share


@dataclass(frozen=True)
class Windows:
    """One rank's part of one global batch; it may be empty.

    Attributes:
        step: number of the global batch, counted from the start of training.
        items: int64 row ids of the extended sequences, one after another.
        lengths: number of items of each extended sequence.
        contexts: number of items of each context; the rest are targets only.
        numbers: index of each window, within the global batch.
        users: index of each window's user, in the data set's file order.
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
    """This rank's windows of global batches `first_step`, `first_step + 1`, ... without end.

    One epoch follows another.
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
            context: L.
            horizon: training's tau, which may differ from the data set's E.
            batch: number of windows of a global batch, over all ranks; 0 if `batch_tokens` is
                given.
            batch_tokens: the most context items of a global batch, instead of a number of windows.
            balanced_for: the model's width, for which batches are dealt to ranks so that attention
                costs every rank about the same; None deals plain slices.
            shuffled_row_groups: number of row groups whose windows are shuffled together, and held
                in memory.
            columns: columns of the sequences to read in addition to `items`.
            training_end_U: number of items of each user that are trained on; by default
                `data.training_ends`.
            moving: whether the cuts between contexts move in every epoch (see
                `TrainingConfig.moving_windows`).
            shuffle_ties: whether interactions of a user at one time are in a new order in every
                epoch (see `Ties`).
            workers: number of threads that decode row groups ahead (see `read_chunks`).

        Raises:
            UserError: no user has two training items, or `batch_tokens` is less than twice the
                longest context less one.
        """
        self.data = data
        self.share = share
        self.balanced_for = balanced_for
        self.first_step = first_step
        self.columns = tuple(columns)
        self.workers = workers

        # A run with `fit_all` gives other ends, as it trains on whole histories.
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
        """The number of windows of an epoch."""
        return self.order.windows

    @property
    def steps_an_epoch(self) -> int:
        """The number of global batches of an epoch."""
        return self.order.steps_an_epoch

    def __iter__(self) -> Generator[Windows, None, None]:
        """Yields one batch after another. Close the iterator to end its threads."""
        # Parts of the current batch, which may continue in the next chunk.
        pending = list[Part]()
        pending_step = self.first_step
        chunks = read_chunks(
            self.data, self.order.chunks(self.first_step), self.columns, self.workers, self._ties
        )

        with closing(chunks):
            for chunk, columns in chunks:
                bounds = itertools.pairwise([0, *chunk.ends])
                for step, (start, end) in zip(chunk.steps, bounds, strict=True):
                    # The pending batch was complete after all: this chunk has no windows of it.
                    if pending and step > pending_step:
                        yield self._windows(pending_step, pending)
                        pending = []

                    pending.append(Part(chunk.windows[start:end], columns))
                    pending_step = step

                    is_complete = step < chunk.steps[-1] or not chunk.may_continue
                    if is_complete:
                        yield self._windows(step, pending)
                        pending = []

                # What is pending must not keep the whole chunk in memory while the next one is
                # read.
                pending = [part.detached() for part in pending]
                del chunk, columns

    def _windows(self, step: int, parts: list[Part]) -> Windows:
        """This rank's windows of a batch that is in one chunk or in several."""
        # Ranks are chosen by the contexts of the whole batch, which all ranks know.
        numbers = self._own_numbers(np.concatenate([part.windows.context for part in parts]))

        # `numbers` count through all parts; each part is read by its own indices.
        read = []
        cuts = []
        first = 0
        for part in parts:
            in_part = (numbers >= first) & (numbers < first + len(part.windows))
            index = numbers[in_part] - first
            read.append(part.read(index))
            cuts.append(part.windows[index])
            first += len(part.windows)

        # In the order of `numbers`, as the parts are in the order of the batch.
        columns = {
            name: np.concatenate([values[name] for values in read])
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
        """Indices, within a global batch, of this rank's windows, ascending."""
        if self.balanced_for is None:
            return np.arange(len(context_B))[self.share.of(len(context_B))]
        rank_B = deal(attention_cost(context_B, self.balanced_for), self.share.world)
        return np.flatnonzero(rank_B == self.share.rank)
