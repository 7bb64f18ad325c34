"""The vectors of candidates in the blocks of the kernel of requests: as floats, or as bytes.

Shapes: R rows, C candidates, d width.
"""

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.index_parts import Tile
from torchrec_priors.retrieval.int8_search import Quantised
from torchrec_priors.retrieval.resident_blocks import LANES, Blocks
from torchrec_priors.retrieval.resident_inputs import address

_AT_ONCE = 1 << 16  # vectors


def pack_floats(library: ctypes.CDLL, index: GroupIndex, score: Score, blocks: Blocks) -> Tensor:
    """Copies the vectors of all lists into blocks, [blocks, d, lanes].

    Args:
        library: the kernel.
        index: the index.
        score: turns stored vectors into the vectors that scores are computed with.
        blocks: the arrangement of the candidates.
    """
    # The vectors for scoring may have another width than the rows.
    width = score.items(index.shard.rows[:1]).shape[1]
    packed = torch.empty(len(blocks.position) // LANES, width, LANES)

    # The vectors of some candidates at a time are turned into those for scoring.
    for first in range(0, blocks.candidates, _AT_ONCE):
        size = min(_AT_ONCE, blocks.candidates - first)
        vectors = index.vectors(Tile(first, size, []))
        divisor = None
        # The lengths of `F.normalize` may depend on the number of vectors, in the last bit.
        if type(score) is Score and score.kind == "cosine":
            divisor = lengths(library, vectors)
        else:
            vectors = score.items(vectors)
        local = np.full(-(-size // LANES) * LANES, -1, np.int64)
        local[:size] = np.arange(size)
        _copy(library, vectors, local, divisor, packed[first // LANES :])

    # The other lists are copied from list 0.
    for first in range(blocks.of_all * LANES, len(blocks.position), _AT_ONCE):
        some = blocks.position[first : first + _AT_ONCE].astype(np.int64)
        wanted = np.flatnonzero(some >= 0)
        place = torch.from_numpy(some[wanted])
        vectors = packed[place // LANES, :, place % LANES].contiguous()
        local = np.full(len(some), -1, np.int64)
        local[wanted] = np.arange(len(wanted))
        _copy(library, vectors, local, None, packed[first // LANES :])
    return packed


@dataclass(frozen=True)
class PackedBytes:
    """The vectors of all lists with a byte for each number (`int8_search.py`).

    Attributes:
        packed: int8 [blocks, quads, lanes, 4], four dimensions of a candidate side by side.
        step: float32 [blocks x lanes], the step of each vector; 0 for a lane without candidate.
        rows_Rd: the vectors as they are stored.
        row_C: the row of each candidate.
        divisor_C: what a row is divided by to get the vector; None for 1.
        rounding, length: see `Quantised`.
    """

    packed: Tensor
    step: Tensor
    rows_Rd: Tensor
    row_C: np.ndarray
    divisor_C: Tensor | None
    rounding: float
    length: float

    @classmethod
    def of(
        cls, library: ctypes.CDLL, index: GroupIndex, score: Score, position: np.ndarray
    ) -> "PackedBytes":
        """Packs the bytes of candidates.

        Args:
            library: the kernel.
            index: the index.
            score: turns stored vectors into the vectors that scores are computed with.
            position: int32 [blocks x lanes], the candidate of each lane; -1 for none.
        """
        rows_Rd = index.shard.rows.contiguous()
        quantised = Quantised.of(rows_Rd, score)
        row_C = index.row_of_candidate
        divisor_C = None
        if score.kind == "cosine":
            divisor_C = lengths(library, rows_Rd)[torch.from_numpy(row_C)]

        quads = -(-rows_Rd.shape[1] // 4)
        packed = torch.zeros(len(position) // LANES, quads, LANES, 4, dtype=torch.int8)
        step = torch.zeros(len(position))
        for first in range(0, len(position), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            held = torch.from_numpy(np.flatnonzero(position[part] >= 0))
            row = torch.from_numpy(row_C[position[part][held.numpy()]])
            padded = torch.zeros(len(position[part]), 4 * quads, dtype=torch.int8)
            padded[held, : rows_Rd.shape[1]] = quantised.byte_Rd[row]
            step[part][held] = quantised.step_R[row]
            blocks = slice(first // LANES, first // LANES + len(padded) // LANES)
            packed[blocks] = padded.view(-1, LANES, quads, 4).transpose(1, 2)
        rounding, length = quantised.rounding, quantised.length
        return cls(packed, step, rows_Rd, row_C, divisor_C, rounding, length)

    @property
    def pointers(self) -> tuple[int, int, int, int, int]:
        """The addresses of the arrays, in the order of the kernel's index."""
        return (
            self.packed.data_ptr(),
            self.step.data_ptr(),
            self.rows_Rd.data_ptr(),
            address(self.row_C),
            0 if self.divisor_C is None else self.divisor_C.data_ptr(),
        )

    def vectors(self, position: np.ndarray) -> Tensor:
        """Returns the vectors of some candidates, which are not rounded: [M, d]."""
        vectors_Md = self.rows_Rd.index_select(0, torch.from_numpy(self.row_C[position]))
        if self.divisor_C is None:
            return vectors_Md
        return vectors_Md / self.divisor_C[torch.from_numpy(position), None]

    @property
    def nbytes(self) -> int:
        """The memory of the bytes and their steps."""
        return self.packed.nbytes + self.step.nbytes


def lengths(library: ctypes.CDLL, vectors_Rd: Tensor) -> Tensor:
    """Returns the lengths of vectors, by which cosines divide them: [R]."""
    vectors_Rd = vectors_Rd.contiguous()
    lengths_R = torch.empty(len(vectors_Rd))
    library.resident_lengths(
        ctypes.c_void_p(vectors_Rd.data_ptr()),
        ctypes.c_int64(len(vectors_Rd)),
        ctypes.c_int64(vectors_Rd.shape[1]),
        ctypes.c_void_p(lengths_R.data_ptr()),
    )
    return lengths_R


def _copy(
    library: ctypes.CDLL, vectors: Tensor, row: np.ndarray, divisor: Tensor | None, into: Tensor
) -> None:
    """Copies vectors into blocks; `row` has the vector of each lane.

    If there is a divisor for each vector, the vectors are divided by it.
    """
    vectors = vectors.contiguous()
    library.resident_pack(
        ctypes.c_void_p(vectors.data_ptr()),
        ctypes.c_void_p(address(row)),
        ctypes.c_void_p(None if divisor is None else divisor.data_ptr()),
        ctypes.c_int64(len(row) // LANES),
        ctypes.c_int64(vectors.shape[1]),
        ctypes.c_void_p(into.data_ptr()),
    )
