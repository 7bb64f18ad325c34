"""Prefixes of jagged sequences as dense blocks, each with a few sequences of similar lengths.

A row of a block is a requested position, and a column is an item of its sequence. The row has seen
the items up to its position. Computations over prefixes (`interest_attention`, `dynamic_routing`)
are then dense arithmetic, and only requested positions are computed.

Shapes: N tokens, B sequences, Q requested positions; within a block, b sequences with R rows and L
items each.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_CELLS = 1 << 20  # the largest b * R * L of a block, unless it has only one sequence


@dataclass(frozen=True)
class Block:
    """A few sequences and the positions that are requested in them.

    Attributes:
        token_bL: token of each item. Beyond the end of a sequence, its last token is repeated, but
            no row has seen the repetitions.
        position_bR: index of the last item that each row has seen; the first item is 0.
        place_Q: indices of the requested positions that are in the block.
        row_Q: rows of these positions among the b * R rows.
    """

    token_bL: Tensor
    position_bR: Tensor
    place_Q: Tensor
    row_Q: Tensor

    @property
    def seen_bRL(self) -> Tensor:
        """bool, whether each row has seen each item."""
        item_L = torch.arange(self.token_bL.shape[1], device=self.token_bL.device)
        return item_L <= self.position_bR[:, :, None]


def blocks(offsets_B1: Tensor, token_Q: Tensor) -> Iterator[Block]:
    """Yields blocks with all requested positions; one empty block if none is requested.

    Args:
        offsets_B1: int64 bounds of sequences.
        token_Q: int64 numbers of positions, ascending.
    """
    device = offsets_B1.device
    sequence_Q = torch.searchsorted(offsets_B1, token_Q, right=True) - 1
    first_Q = torch.searchsorted(sequence_Q, sequence_Q)  # the first request in the same sequence
    rank_Q = torch.arange(len(token_Q), device=device) - first_Q
    asked_B = torch.bincount(sequence_Q, minlength=len(offsets_B1) - 1)

    # Sequences are sorted by length; sequences without a requested position are left out.
    lengths_B = offsets_B1.diff()
    order = torch.argsort(lengths_B, stable=True)
    order = order[asked_B[order] > 0]

    place_B = torch.zeros_like(lengths_B)
    for chosen in _cut(order, lengths_B, asked_B):
        lengths = int(lengths_B[chosen].amax())
        rows = int(asked_B[chosen].amax())
        within_L = torch.arange(lengths, device=device)
        token_bL = offsets_B1[chosen, None] + torch.minimum(within_L, lengths_B[chosen, None] - 1)

        is_here_B = torch.zeros_like(lengths_B, dtype=torch.bool)
        is_here_B[chosen] = True
        place_B[chosen] = torch.arange(len(chosen), device=device)
        place_Q = torch.nonzero(is_here_B[sequence_Q])[:, 0]
        row_Q = place_B[sequence_Q[place_Q]] * rows + rank_Q[place_Q]

        position_bR = torch.zeros(len(chosen) * rows, dtype=torch.int64, device=device)
        position_bR[row_Q] = (token_Q - offsets_B1[sequence_Q])[place_Q]
        yield Block(token_bL, position_bR.view(-1, rows), place_Q, row_Q)

    if not len(order):
        none = torch.zeros(0, 1, dtype=torch.int64, device=device)
        yield Block(none, none, none[:, 0], none[:, 0])


def in_order(parts: list[Tensor], places: list[Tensor]) -> Tensor:
    """Returns the results of all blocks in the order of the requested positions.

    Args:
        parts: the results of each block, in the order of `Block.place_Q`.
        places: `Block.place_Q` of each block.
    """
    together = torch.cat(parts)
    back = torch.empty(len(together), dtype=torch.int64, device=together.device)
    back[torch.cat(places)] = torch.arange(len(together), device=together.device)
    return together.index_select(0, back)


def _cut(order: Tensor, lengths_B: Tensor, asked_B: Tensor) -> Iterator[Tensor]:
    """Yields the sequences of each block, so that it has few enough cells and little padding.

    Args:
        order: sequences, by ascending length.
        lengths_B: length of each sequence.
        asked_B: number of requested positions in each sequence.
    """
    lengths = lengths_B[order].tolist()
    asked = asked_B[order].tolist()
    start = 0
    rows = 0
    for end, (length, more) in enumerate(zip(lengths, asked, strict=True)):
        rows = max(rows, more)
        full = (end + 1 - start) * rows * length > _CELLS or length > 2 * lengths[start] + 8
        if end > start and full:
            yield order[start:end]
            start = end
            rows = more
    if start < len(order):
        yield order[start:]
