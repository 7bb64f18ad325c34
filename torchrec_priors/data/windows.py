"""Training windows of a prepared data set, in one global order that every rank knows.

A window is a context of up to L items and up to tau items after it, in one extended sequence; contexts do not overlap
and are cut backwards from the end of a user's training part, so that each training item but the last stands in
exactly one context and every position has a next item. Where cuts move, or ties change places, they do from epoch to
epoch, and this holds in each.

The order of an epoch and its global batches are those of `order`, whatever the number of ranks; a rank takes its share
of every batch. A window keeps its number in the global batch, so that nothing depends on who has it.
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


class WindowStream:
    """Windows of this rank for global batches `first_step`, `first_step + 1`, ... without end, epoch after epoch."""

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
            batch: windows of a global batch, over all ranks; 0 where `batch_tokens` is given.
            batch_tokens: the most context items of a global batch, in place of a number of windows.
            balanced_for: the model's width, for which batches are dealt so that attention costs every rank about the
                same; None deals plain slices.
            shuffled_row_groups: row groups whose windows are shuffled together, and held in memory.
            columns: of the sequences, besides `items`.
            training_end_U: how many items of each user are trained on; by default `data.training_ends`.
            moving: whether contexts are cut elsewhere in every epoch (see `TrainingConfig.moving_windows`).
            shuffle_ties: whether interactions of a user at one time are in a new order in every epoch (see `Ties`).
            workers: threads that decode row groups ahead (see `read_chunks`).

        Raises:
            UserError: no user has two training items; too small a budget of tokens.
        """
        self.data = data
        self.share = share
        self.balanced_for = balanced_for
        self.first_step = first_step
        self.columns = tuple(columns)
        self.workers = workers
        training_end_U = data.training_ends if training_end_U is None else training_end_U
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
        """Of an epoch."""
        return self.order.windows

    @property
    def steps_an_epoch(self) -> int:
        return self.order.steps_an_epoch

    def __iter__(self) -> Generator[Windows, None, None]:
        """Close it to end its threads."""
        waiting_for = self.first_step
        waiting = list[Part]()
        chunks = read_chunks(
            self.data, self.order.chunks(self.first_step), self.columns, self.workers, self._ties
        )
        with closing(chunks):
            for chunk, columns in chunks:
                for step, (start, end) in zip(
                    chunk.steps, itertools.pairwise([0, *chunk.ends]), strict=True
                ):
                    if waiting and step > waiting_for:
                        yield self._windows(waiting_for, waiting)
                        waiting = []
                    waiting.append(Part(chunk.windows[start:end], columns))
                    waiting_for = step
                    if step < chunk.steps[-1] or not chunk.may_go_on:
                        yield self._windows(step, waiting)
                        waiting = []
                waiting = [part.alone() for part in waiting]
                del chunk, columns

    def _windows(self, step: int, parts: list[Part]) -> Windows:
        """This rank's windows of a batch that lies in one chunk or a few."""
        numbers = self._own(np.concatenate([part.windows.context for part in parts]))
        read = []
        of_parts = []
        first = 0
        for part in parts:
            own = numbers[(numbers >= first) & (numbers < first + len(part.windows))] - first
            read.append(part.read(own))
            of_parts.append(part.windows[own])
            first += len(part.windows)
        columns = {
            name: np.concatenate([values[name] for values in read])
            for name in ("items", *self.columns)
        }
        return Windows(
            step=step,
            items=columns.pop("items"),
            lengths=np.concatenate([windows.length for windows in of_parts]),
            contexts=np.concatenate([windows.context for windows in of_parts]),
            numbers=numbers,
            users=np.concatenate([windows.user for windows in of_parts]),
            columns=columns,
        )

    def _own(self, context_B: np.ndarray) -> np.ndarray:
        """Which windows of a global batch are this rank's, ascending."""
        if self.balanced_for is None:
            return np.arange(len(context_B))[self.share.of(len(context_B))]
        rank_B = deal(attention_cost(context_B, self.balanced_for), self.share.world)
        return np.flatnonzero(rank_B == self.share.rank)


def flat(parts: list[np.ndarray]) -> np.ndarray:
    """Integers of several users, one after another."""
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
