"""A training batch: the ids of one lookup, and what distinguishes their roles.

For example, two windows of 3 and 2 items with contexts of 2 and 1, and two negatives, n and m:

    ids           a b c d e n m    one jagged tensor, with the lengths 3, 2 and 2
    item_X        a b c d e
    context_N     0 1 3            the tokens a, b and d as indices into item_X
    end_N         3 3 5            where the window of each token ends in item_X
    offsets_B1    0 2 3            bounds of the contexts among the tokens

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
from torchrec_priors.prepared.data_set import Columns
from torchrec_priors.sampling.group_sampler import Draw


@dataclass(frozen=True)
class Contexts:
    """Some of a batch's windows, as the encoder takes them.

    Attributes:
        first: number of the batch's tokens before these.
        context_N: index of each token in the extended sequences.
        end_N: index there at which each token's extended sequence ends.
        offsets_B1: bounds of the contexts among the N tokens.
        user_N: number of each token's user, in file order of the data set.
        time_N, event_N: milliseconds and event codes, if they were read.
        dropout: keys of the windows.
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
class Batch:
    """One rank's part of one global batch.

    Attributes:
        step: number of the global batch.
        ids: one feature, the ids looked up in the table; B rows of extended sequences, then one row
            with the negatives that this rank serves.
        item_X: row ids of the extended sequences' items in the data set.
        parts: the windows, in the number of parts over which gradients are accumulated.
        draw: which rank serves which negatives.
        event_X: event codes of the extended sequences, if they were read.
    """

    step: int
    ids: KeyedJaggedTensor
    item_X: Tensor
    parts: list[Contexts]
    draw: Draw
    event_X: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on the device; from pinned memory, without waiting for the copies."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The batch in pinned memory, from which a GPU copies by itself."""
        return self._with(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tells a GPU's allocator that a stream uses the tensors.

        Their memory is then not reused before the stream has finished with it.
        """

        def record(tensor: Any) -> Any:
            tensor.record_stream(stream)
            return tensor

        # The new batch is dropped: all that counts is that each tensor was visited.
        self._with(record)

    def _with(self, move: Callable[[Any], Any]) -> "Batch":
        """The batch with `move` applied to every tensor, the jagged one of the ids included."""
        return replace(
            self,
            ids=move(self.ids),
            item_X=move(self.item_X),
            parts=[_moved(part, move) for part in self.parts],
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
    """Windows and negatives as tensors, the windows in `parts` of about the same number.

    Args:
        to_ids: maps items to the ids that are looked up in the table.
        own_ids: the ids that are looked up for this rank's negatives, if they are not their rows.
    """
    if own_ids is None:
        own_ids = draw.own_ids

    # The negatives are one more row of the jagged tensor, after the windows.
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
        event_X=times_and_events(windows.columns)[1],
    )


def times_and_events(columns: Columns) -> tuple[Tensor | None, Tensor | None]:
    """Milliseconds and event codes, None for those that were not read."""

    def tensor(values: np.ndarray | None) -> Tensor | None:
        return None if values is None else torch.from_numpy(values)

    return tensor(columns.get("timestamps")), tensor(columns.get("events"))


def _moved(part: Contexts, move: Callable[[Any], Any]) -> Contexts:
    """A part with `move` applied to each of its tensors."""
    values: dict[str, Any] = {item.name: getattr(part, item.name) for item in fields(part)}
    for name, value in values.items():
        if isinstance(value, Tensor):
            values[name] = move(value)
    return Contexts(**values)


def _contexts(windows: Windows, chosen: slice, seed: int) -> Contexts:
    """The contexts of the chosen windows."""
    # In NumPy, which starts no threads: batches are built at the same time as the training step.
    contexts = windows.contexts[chosen]
    ends = np.cumsum(windows.lengths)[chosen]
    offsets_B1 = np.concatenate([[0], np.cumsum(contexts)])
    context_N = ranges(ends - windows.lengths[chosen], contexts)

    # Keys are of the windows' numbers in the global batch, so dropout is the same on any ranks.
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
