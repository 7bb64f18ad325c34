"""A training batch: one lookup's worth of ids, and what tells the roles apart.

Shapes: B windows, X items of their extended sequences, N tokens of their contexts, n negatives of this rank.
"""

import itertools
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.data.prepared import Columns
from torchrec_priors.data.windows import Windows
from torchrec_priors.ops.keyed_dropout import DropoutKeys, mix
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
        ids: one feature; B rows of extended sequences, then one row with the negatives this rank serves.
        parts: the windows, in as many parts as gradients are accumulated over.
        draw: who serves which negatives.
        event_X: event codes of the extended sequences, where they were read.
    """

    step: int
    ids: KeyedJaggedTensor
    parts: list[Contexts]
    draw: Draw
    event_X: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        return replace(
            self,
            ids=self.ids.to(device),
            parts=[_moved(part, device) for part in self.parts],
            event_X=None if self.event_X is None else self.event_X.to(device),
        )


def _moved(part: Contexts, device: torch.device) -> Contexts:
    values: dict[str, Any] = {item.name: getattr(part, item.name) for item in fields(part)}
    for name, value in values.items():
        if isinstance(value, Tensor):
            values[name] = value.to(device)
    return Contexts(**values)


def make_batch(windows: Windows, draw: Draw, *, feature: str, seed: int, parts: int = 1) -> Batch:
    """Windows and negatives as tensors, the windows in `parts` of about the same number."""
    values = torch.cat([torch.from_numpy(windows.items), torch.from_numpy(draw.own_ids)])
    lengths = torch.cat([torch.from_numpy(windows.lengths), torch.tensor([len(draw.own_ids)])])
    bounds = [len(windows.lengths) * part // parts for part in range(parts + 1)]
    return Batch(
        step=windows.step,
        ids=KeyedJaggedTensor(keys=[feature], values=values, lengths=lengths),
        parts=[_contexts(windows, slice(*pair), seed) for pair in itertools.pairwise(bounds)],
        draw=draw,
        event_X=times_and_events(windows.columns)[1],
    )


def _contexts(windows: Windows, chosen: slice, seed: int) -> Contexts:
    lengths, contexts = torch.from_numpy(windows.lengths), torch.from_numpy(windows.contexts)[chosen]
    ends = torch.cumsum(lengths, 0)
    starts, ends = (ends - lengths)[chosen], ends[chosen]
    offsets_B1 = torch.zeros(len(contexts) + 1, dtype=torch.int64)
    torch.cumsum(contexts, 0, out=offsets_B1[1:])
    within_N = torch.arange(int(offsets_B1[-1])) - torch.repeat_interleave(offsets_B1[:-1], contexts)
    context_N = torch.repeat_interleave(starts, contexts) + within_N
    time_X, event_X = times_and_events(windows.columns)
    return Contexts(
        first=int(windows.contexts[: chosen.start].sum()),
        context_N=context_N,
        end_N=torch.repeat_interleave(ends, contexts),
        offsets_B1=offsets_B1,
        user_N=torch.repeat_interleave(torch.from_numpy(windows.users)[chosen], contexts),
        dropout=DropoutKeys(
            [mix(seed, windows.step, number) for number in windows.numbers[chosen].tolist()], contexts.tolist()
        ),
        time_N=None if time_X is None else time_X[context_N],
        event_N=None if event_X is None else event_X[context_N],
    )


def times_and_events(columns: Columns) -> tuple[Tensor | None, Tensor | None]:
    """Milliseconds and event codes, None for those that were not read."""

    def tensor(values: np.ndarray | None) -> Tensor | None:
        return None if values is None else torch.from_numpy(values)

    return tensor(columns.get("timestamps")), tensor(columns.get("events"))
