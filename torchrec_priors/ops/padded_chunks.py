"""Chunks of a jagged batch: sequences of similar lengths, padded to a common length.

Shapes: N tokens in B sequences, P padded tokens; within a chunk, n sequences of T padded tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Sequences that are computed together.

    Attributes:
        sequences: n, the number of sequences.
        padded: T, the number of padded tokens of each sequence.
        rows: the sequences' rows among all padded tokens.
    """

    sequences: int
    padded: int
    rows: slice


@dataclass(frozen=True)
class PaddedChunks:
    """All sequences that are not empty. The padded length of each depends only on its length.

    Attributes:
        chunks: the chunks, by ascending T.
        token_P: token of every padded row; padding repeats the last token of its sequence.
        filled_P: bool, False for padding.
        place_N: row of each token among the padded rows.
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
        """Sorts the sequences of a batch into chunks.

        Args:
            lengths: lengths of the B sequences.
            offsets_B1: bounds of the sequences.
            room: returns the largest number of sequences in a chunk, given T.
        """
        order = [sequence for sequence, length in enumerate(lengths) if length]
        order.sort(key=lambda sequence: (padded_length(lengths[sequence]), sequence))

        # A sequence joins the last chunk if the padded lengths are equal and the chunk is not full.
        chunks: list[Chunk] = []
        start = 0
        for sequence in order:
            padded = padded_length(lengths[sequence])
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
        padded_lengths = [padded_length(lengths[sequence]) for sequence in order]
        padded_B = torch.tensor(padded_lengths, dtype=torch.int64, device=device)

        sequence_P = torch.repeat_interleave(padded_B, output_size=start)
        place_P = torch.arange(start, device=device) - (padded_B.cumsum(0) - padded_B)[sequence_P]
        filled_P = place_P < length_B[sequence_P]
        token_P = offsets_B1[order_B][sequence_P] + torch.minimum(place_P, length_B[sequence_P] - 1)
        place_N = torch.empty(sum(lengths), dtype=torch.int64, device=device)
        place_N[token_P[filled_P]] = filled_P.nonzero()[:, 0]
        longest = max((chunk.padded for chunk in chunks), default=0)
        return cls(chunks, token_P, filled_P, place_N, longest)


def padded_length(length: int) -> int:
    """Rounds a length up to a multiple of an eighth of the next power of two, and of 4.

    So there are few different lengths, and beyond 16 tokens less than a quarter is added.
    """
    step = max(4, 1 << length.bit_length() >> 3)
    return -(-length // step) * step
