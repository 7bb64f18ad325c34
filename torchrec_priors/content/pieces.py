"""Vectors in pieces on disk, so that a process that was killed need not compute them again.

A piece is named by a checksum of everything that decides its vectors. So a piece that is there is
used again, by any number of ranks, and never for other items or another model.

Shapes: B vectors of a piece, c width of the vectors.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from torchrec_priors.common.files import new_file
from torchrec_priors.parquet import read_table, write_table
from torchrec_priors.prepared.content import VECTOR, matrix_of


@dataclass(frozen=True)
class Pieces:
    """The files of vectors.

    Attributes:
        folder: where the files are.
        names: the checksum of each piece.
    """

    folder: Path
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def there(self) -> set[int]:
        """Returns the pieces whose vectors were written and are not damaged."""
        return {number for number in range(len(self)) if _is_whole(self._file(number))}

    def read(self, number: int) -> np.ndarray:
        """Returns the vectors of a piece, float32 [B, c]. It must be there."""
        column = read_table(self._file(number))[VECTOR]
        return matrix_of(column, column.type.list_size)

    def write(self, number: int, vector_Bc: np.ndarray) -> None:
        """Writes the vectors of a piece."""
        values = pa.array(vector_Bc.ravel())
        table = pa.table({VECTOR: pa.FixedSizeListArray.from_arrays(values, vector_Bc.shape[1])})
        with new_file(self._file(number)) as partial:
            write_table(table, partial)

    def _file(self, number: int) -> Path:
        return self.folder / f"{self.names[number]}.parquet"


def _is_whole(piece: Path) -> bool:
    """Returns whether a file was written and is not damaged."""
    try:
        read_table(piece)
    except (OSError, pa.ArrowException):
        return False
    return True
