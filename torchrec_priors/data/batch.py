"""A training batch: one lookup's worth of ids, and what tells the roles apart.

Shapes: B windows, X items of their extended sequences, N tokens of their contexts, n negatives of this rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.data.windows import Windows
from torchrec_priors.ops.keyed_dropout import DropoutKeys, mix
from torchrec_priors.sampling.group_sampler import Draw


@dataclass
class Batch:
    """One rank's part of one global batch.

    Attributes:
        step: number of the global batch.
        ids: one feature; B rows of extended sequences, then one row with the negatives this rank serves.
        context_N: where each token stands in the extended sequences.
        end_N: end of its extended sequence there.
        offsets_B1: bounds of the contexts among the N tokens.
        dropout: keys of the windows.
        draw: who serves which negatives.
    """

    step: int
    ids: KeyedJaggedTensor
    context_N: Tensor
    end_N: Tensor
    offsets_B1: Tensor
    dropout: DropoutKeys
    draw: Draw

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("ids", "context_N", "end_N", "offsets_B1")
        }
        return Batch(step=self.step, dropout=self.dropout, draw=self.draw, **moved)

    def record_stream(self, stream: torch.Stream) -> None:
        for tensor in (self.ids, self.context_N, self.end_N, self.offsets_B1):
            tensor.record_stream(stream)

    def pin_memory(self) -> "Batch":
        pinned = {name: getattr(self, name).pin_memory() for name in ("ids", "context_N", "end_N", "offsets_B1")}
        return Batch(step=self.step, dropout=self.dropout, draw=self.draw, **pinned)


def make_batch(windows: Windows, draw: Draw, *, feature: str, seed: int) -> Batch:
    """Windows and negatives as tensors."""
    lengths, contexts = torch.from_numpy(windows.lengths), torch.from_numpy(windows.contexts)
    values = torch.cat([torch.from_numpy(windows.items), torch.from_numpy(draw.own_ids)])
    ids = KeyedJaggedTensor(
        keys=[feature], values=values, lengths=torch.cat([lengths, torch.tensor([len(draw.own_ids)])])
    )
    ends = torch.cumsum(lengths, 0)
    offsets_B1 = torch.zeros(len(contexts) + 1, dtype=torch.int64)
    torch.cumsum(contexts, 0, out=offsets_B1[1:])
    within_N = torch.arange(int(offsets_B1[-1])) - torch.repeat_interleave(offsets_B1[:-1], contexts)
    return Batch(
        step=windows.step,
        ids=ids,
        context_N=torch.repeat_interleave(ends - lengths, contexts) + within_N,
        end_N=torch.repeat_interleave(ends, contexts),
        offsets_B1=offsets_B1,
        dropout=DropoutKeys(
            [mix(seed, windows.step, number) for number in windows.numbers.tolist()],
            windows.contexts.tolist(),
        ),
        draw=draw,
    )
