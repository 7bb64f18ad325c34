"""Chunks of a jagged batch: sequences of similar lengths, padded to a common length.

Shapes: N tokens in B sequences, P padded tokens; of a chunk: n sequences of T padded tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Sequences that are computed together.

    Attributes:
        sequences: n.
        padded: T.
        rows: their rows among the padded tokens.
    """

    sequences: int
    padded: int
    rows: slice


@dataclass(frozen=True)
class PaddedChunks:
    """All sequences that are not empty, each padded to a length that depends only on its own.

    Attributes:
        token_P: token of every padded row; padding repeats the last token of its sequence.
        filled_P: bool, rows that are tokens, not padding.
        place_N: row of each token among the padded ones.
        longest: T of the longest sequence.
    """

    chunks: list[Chunk]
    token_P: Tensor
    filled_P: Tensor
    place_N: Tensor
    longest: int

    @classmethod
    def of(
        cls, lengths: list[int], offsets_B1: Tensor, room: Callable[[int], int]
    ) -> "PaddedChunks":
        """
        Args:
            lengths: those of the B sequences.
            room: the most sequences of T padded tokens in a chunk.
        """
        order = [sequence for sequence, length in enumerate(lengths) if length]
        order.sort(key=lambda sequence: (_padded(lengths[sequence]), sequence))

        # A sequence joins the chunk before if it has the same padded length and there is room.
        chunks: list[Chunk] = []
        start = 0
        for sequence in order:
            padded = _padded(lengths[sequence])
            last = chunks[-1] if chunks else Chunk(0, 0, slice(0, 0))
            if last.padded == padded and last.sequences < room(padded):
                chunks[-1] = Chunk(
                    last.sequences + 1, padded, slice(last.rows.start, start + padded)
                )
            else:
                chunks.append(Chunk(1, padded, slice(start, start + padded)))
            start += padded

        device = offsets_B1.device
        order_B = torch.tensor(order, dtype=torch.int64, device=device)
        length_B = offsets_B1.diff()[order_B]
        padded_lengths = [_padded(lengths[sequence]) for sequence in order]
        padded_B = torch.tensor(padded_lengths, dtype=torch.int64, device=device)

        sequence_P = torch.repeat_interleave(padded_B, output_size=start)
        place_P = torch.arange(start, device=device) - (padded_B.cumsum(0) - padded_B)[sequence_P]
        filled_P = place_P < length_B[sequence_P]
        token_P = offsets_B1[order_B][sequence_P] + torch.minimum(place_P, length_B[sequence_P] - 1)
        place_N = torch.empty(sum(lengths), dtype=torch.int64, device=device)
        place_N[token_P[filled_P]] = filled_P.nonzero()[:, 0]
        longest = max((chunk.padded for chunk in chunks), default=0)
        return cls(chunks, token_P, filled_P, place_N, longest)


def _padded(length: int) -> int:
    """The next multiple of a 4th to an 8th of its power of two."""
    step = max(4, 1 << length.bit_length() >> 3)
    return -(-length // step) * step
