"""A training batch: the ids of one lookup, and the tensors that say which ids have which role.

Suppose a batch has two windows of 3 and 2 items with contexts of 2 and 1 items, and two negatives,
n and m:

    ids           a b c d e n m    one jagged tensor, with the lengths 3, 2 and 2
    item_X        a b c d e
    context_N     0 1 3            the tokens a, b and d as indices into item_X
    end_N         3 3 5            where the window of each token ends in item_X
    offsets_B1    0 2 3            where the context of each window starts and ends among the tokens

Shapes: B windows, X items of their extended sequences, N tokens of their contexts, n negatives of
this rank.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.data.chunks import ranges
from torchrec_priors.data.windows import Windows
from torchrec_priors.ops.keyed_dropout import DropoutKeys, mix_each
from torchrec_priors.prepared.users import Columns
from torchrec_priors.sampling.group_sampler import Draw


@dataclass(frozen=True)
class Contexts:
    """The contexts of some windows of a batch: the input of the encoder.

    Attributes:
        first: the number of tokens in the batch before these contexts.
        context_N: the index of each token in the batch's extended sequences.
        end_N: the index in the batch's extended sequences at which each token's sequence ends.
        offsets_B1: where the context of each window starts and ends among the N tokens.
        user_N: the index of each token's user in the file order of the data set.
        time_N, event_N: the time in milliseconds and the event code of each token; None if they
            were not read.
        dropout: the dropout keys of the windows.
    """

    first: int
    context_N: Tensor
    end_N: Tensor
    offsets_B1: Tensor
    user_N: Tensor
    dropout: DropoutKeys
    time_N: Tensor | None = None
    event_N: Tensor | None = None


@dataclass(frozen=True)
class Slots:
    """What the device needs of a `Draw`, as tensors that move with the batch.

    Attributes:
        slots_W: the slots that each rank serves.
        own_shifts: numbers to add to the logits of this rank's slots; None without `logq`.
        first_S1: the first slot of each item set; the last entry is the number of slots in sets.
    """

    slots_W: list[Tensor]
    own_shifts: Tensor | None
    first_S1: Tensor

    @classmethod
    def of(cls, draw: Draw) -> "Slots":
        return cls(
            slots_W=[torch.from_numpy(slots) for slots in draw.slots_W],
            own_shifts=None if draw.own_shifts is None else torch.from_numpy(draw.own_shifts),
            first_S1=torch.from_numpy(np.cumsum([0, *draw.counts_S])),
        )

    def moved(self, move: Callable[[Any], Any]) -> "Slots":
        """Returns the slots with `move` applied to each tensor."""
        return Slots(
            slots_W=[move(slots) for slots in self.slots_W],
            own_shifts=None if self.own_shifts is None else move(self.own_shifts),
            first_S1=move(self.first_S1),
        )


@dataclass(frozen=True)
class Batch:
    """One rank's part of one global batch.

    Attributes:
        step: the index of the global batch.
        ids: the ids to look up in the table, as one feature. There is one row for the extended
            sequence of each of the B windows, and a last row for the negatives that this rank looks
            up.
        item_X: the row ids in the data set of the items in the extended sequences.
        parts: the contexts of the windows, in several parts if gradients are accumulated.
        draw: the negatives, and the ranks that look them up.
        slots: the same, as tensors.
        event_X: the event codes of the items; None if they were not read.
    """

    step: int
    ids: KeyedJaggedTensor
    item_X: Tensor
    parts: list[Contexts]
    draw: Draw
    slots: Slots
    event_X: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Copies the batch to the device, without waiting for the copies from pinned memory."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """Copies the batch into pinned memory, from which a GPU copies without the CPU."""
        return self._with(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tells the GPU's allocator that a stream uses the tensors.

        Then their memory is not reused before the stream has finished its work on them.
        """

        def record(tensor: Any) -> Any:
            tensor.record_stream(stream)
            return tensor

        # `_with` is used to visit every tensor; the batch that it returns is not needed.
        self._with(record)

    def _with(self, move: Callable[[Any], Any]) -> "Batch":
        """Returns the batch with `move` applied to every tensor, including `ids`."""
        return replace(
            self,
            ids=move(self.ids),
            item_X=move(self.item_X),
            parts=[_moved(part, move) for part in self.parts],
            slots=self.slots.moved(move),
            event_X=None if self.event_X is None else move(self.event_X),
        )


def make_batch(
    windows: Windows,
    draw: Draw,
    *,
    feature: str,
    seed: int,
    parts: int = 1,
    to_ids: Callable[[np.ndarray], np.ndarray] = lambda items: items,
    own_ids: np.ndarray | None = None,
) -> Batch:
    """Makes a batch from windows and negatives.

    Args:
        windows: this rank's windows.
        draw: the negatives of the global batch.
        feature: the name of the feature that is looked up.
        seed: the seed of the training run, for dropout.
        parts: the number of parts; each has about the same number of windows.
        to_ids: maps items to the ids that are looked up in the table.
        own_ids: the ids that are looked up for this rank's negatives; by default those in `draw`.
    """
    if own_ids is None:
        own_ids = draw.own_ids

    # The negatives are the last row of the jagged tensor, after the windows.
    values = np.concatenate([to_ids(windows.items), own_ids])
    lengths = np.append(windows.lengths, len(draw.own_ids))

    bounds = [len(windows.lengths) * part // parts for part in range(parts + 1)]
    return Batch(
        step=windows.step,
        ids=KeyedJaggedTensor(
            keys=[feature], values=torch.from_numpy(values), lengths=torch.from_numpy(lengths)
        ),
        item_X=torch.from_numpy(windows.items),
        parts=[_contexts(windows, slice(*pair), seed) for pair in itertools.pairwise(bounds)],
        draw=draw,
        slots=Slots.of(draw),
        event_X=times_and_events(windows.columns)[1],
    )


def times_and_events(columns: Columns) -> tuple[Tensor | None, Tensor | None]:
    """Returns the times in milliseconds and the event codes; None for those that were not read."""

    def tensor(values: np.ndarray | None) -> Tensor | None:
        return None if values is None else torch.from_numpy(values)

    return tensor(columns.get("timestamps")), tensor(columns.get("events"))


def _moved(part: Contexts, move: Callable[[Any], Any]) -> Contexts:
    """Returns a part with `move` applied to each of its tensors."""
    values: dict[str, Any] = {item.name: getattr(part, item.name) for item in fields(part)}
    for name, value in values.items():
        if isinstance(value, Tensor):
            values[name] = move(value)
    return Contexts(**values)


def _contexts(windows: Windows, chosen: slice, seed: int) -> Contexts:
    """Makes the contexts of the chosen windows."""
    # NumPy is used because it starts no threads: batches are made during the training steps.
    contexts = windows.contexts[chosen]
    ends = np.cumsum(windows.lengths)[chosen]
    offsets_B1 = np.concatenate([[0], np.cumsum(contexts)])
    context_N = ranges(ends - windows.lengths[chosen], contexts)

    # Keys depend on the windows' numbers in the global batch, so dropout is the same on any number
    # of ranks.
    keys = mix_each(seed, windows.step, last=windows.numbers[chosen])

    time_N, event_N = times_and_events(
        {name: values[context_N] for name, values in windows.columns.items()}
    )
    return Contexts(
        first=int(windows.contexts[: chosen.start].sum()),
        context_N=torch.from_numpy(context_N),
        end_N=torch.from_numpy(np.repeat(ends, contexts)),
        offsets_B1=torch.from_numpy(offsets_B1),
        user_N=torch.from_numpy(np.repeat(windows.users[chosen], contexts)),
        dropout=DropoutKeys(keys.tolist(), contexts.tolist()),
        time_N=time_N,
        event_N=event_N,
    )
