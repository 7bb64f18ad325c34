"""Prefixes of jagged sequences as dense blocks: a few sequences of similar lengths at a time.

    rows of a block x items of a block: row r is a requested position that has seen its items
    up to itself

Computations over every prefix (`interest_attention`, `dynamic_routing`) are then plain dense
arithmetic, of the requested positions only.

Shapes: N tokens, B sequences; in a block b sequences, R rows, L items.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_CELLS = 1 << 20  # b * R * L of a block


@dataclass(frozen=True)
class Block:
    """Some sequences.

    Attributes:
        token_bL: items of the sequences; after the end of one, an item that no row sees.
        position_bR: the last item that each row has seen, from 0.
        place_Q: indices of the requested positions that are in the block.
        row_Q: their rows among the b * R rows.
    """

    token_bL: Tensor
    position_bR: Tensor
    place_Q: Tensor
    row_Q: Tensor

    @property
    def seen_bRL(self) -> Tensor:
        """bool."""
        item_L = torch.arange(self.token_bL.shape[1], device=self.token_bL.device)
        return item_L <= self.position_bR[:, :, None]


def blocks(offsets_B1: Tensor, token_Q: Tensor) -> Iterator[Block]:
    """Blocks with all requested positions and their sequences; one empty block if there are none.

    Args:
        offsets_B1: int64 bounds of sequences.
        token_Q: int64 numbers of positions, ascending.
    """
    device = offsets_B1.device
    sequence_Q = torch.searchsorted(offsets_B1, token_Q, right=True) - 1
    first_Q = torch.searchsorted(sequence_Q, sequence_Q)  # of the same sequence
    rank_Q = torch.arange(len(token_Q), device=device) - first_Q
    asked_B = torch.bincount(sequence_Q, minlength=len(offsets_B1) - 1)

    # Sequences of similar lengths together, those without a requested position left out.
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
    """The blocks' results in the order of all requested positions."""
    together = torch.cat(parts)
    back = torch.empty(len(together), dtype=torch.int64, device=together.device)
    back[torch.cat(places)] = torch.arange(len(together), device=together.device)
    return together.index_select(0, back)


def _cut(order: Tensor, lengths_B: Tensor, asked_B: Tensor) -> Iterator[Tensor]:
    """Runs of sequences, ascending by length, whose blocks have few enough cells and little
    padding.
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
