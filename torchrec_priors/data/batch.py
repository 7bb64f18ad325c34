"""A training batch: one lookup's worth of ids, and what tells the roles apart.

Shapes: B windows, X items of their extended sequences, N tokens of their contexts, n negatives of this rank.
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
        first: tokens of the batch before these.
        context_N: where each token stands in the extended sequences.
        end_N: end of its extended sequence there.
        offsets_B1: bounds of the contexts among the N tokens.
        user_N: number of each token's user, in file order of the data set.
        time_N, event_N: milliseconds and event codes, where they were read.
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
        ids: one feature, what the table is asked for; B rows of extended sequences, then one row with the negatives
            that this rank serves.
        item_X: row ids of the extended sequences' items in the data set.
        parts: the windows, in as many parts as gradients are accumulated over.
        draw: who serves which negatives.
        event_X: event codes of the extended sequences, where they were read.
    """

    step: int
    ids: KeyedJaggedTensor
    item_X: Tensor
    parts: list[Contexts]
    draw: Draw
    event_X: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """On the device; from pinned memory, without waiting for the copies."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """In memory from which a GPU copies by itself."""
        return self._with(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tells a GPU's allocator that a stream uses the tensors, so that their memory is not given away before."""

        def record(tensor: Any) -> Any:
            tensor.record_stream(stream)
            return tensor

        self._with(record)

    def _with(self, move: Callable[[Any], Any]) -> "Batch":
        """With every tensor moved, that of the ids jagged."""
        return replace(
            self,
            ids=move(self.ids),
            item_X=move(self.item_X),
            parts=[_moved(part, move) for part in self.parts],
            event_X=None if self.event_X is None else move(self.event_X),
        )


def _moved(part: Contexts, move: Callable[[Any], Any]) -> Contexts:
    values: dict[str, Any] = {item.name: getattr(part, item.name) for item in fields(part)}
    for name, value in values.items():
        if isinstance(value, Tensor):
            values[name] = move(value)
    return Contexts(**values)


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
        to_ids: items -> what the table is asked for.
        own_ids: what it is asked for for this rank's negatives, where that is not their rows.
    """
    values = np.concatenate([to_ids(windows.items), draw.own_ids if own_ids is None else own_ids])
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


def _contexts(windows: Windows, chosen: slice, seed: int) -> Contexts:
    """In NumPy, which starts no threads: batches are made beside the training step."""
    contexts = windows.contexts[chosen]
    ends = np.cumsum(windows.lengths)[chosen]
    offsets_B1 = np.concatenate([[0], np.cumsum(contexts)])
    context_N = ranges(ends - windows.lengths[chosen], contexts)
    columns = times_and_events(
        {name: values[context_N] for name, values in windows.columns.items()}
    )
    return Contexts(
        first=int(windows.contexts[: chosen.start].sum()),
        context_N=torch.from_numpy(context_N),
        end_N=torch.from_numpy(np.repeat(ends, contexts)),
        offsets_B1=torch.from_numpy(offsets_B1),
        user_N=torch.from_numpy(np.repeat(windows.users[chosen], contexts)),
        dropout=DropoutKeys(
            mix_each(seed, windows.step, last=windows.numbers[chosen]).tolist(), contexts.tolist()
        ),
        time_N=columns[0],
        event_N=columns[1],
    )


def times_and_events(columns: Columns) -> tuple[Tensor | None, Tensor | None]:
    """Milliseconds and event codes, None for those that were not read."""

    def tensor(values: np.ndarray | None) -> Tensor | None:
        return None if values is None else torch.from_numpy(values)

    return tensor(columns.get("timestamps")), tensor(columns.get("events"))
