"""Reads a user's vectors of items: a Parquet file, or a NumPy array with a file of ids.

The vectors may be in any order, and some items may have none. A vector is refused if it is missing,
has another length than the others, or has a number that is not finite, or if its item has two.

Shapes: N vectors of a batch, d width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from torchrec_priors.common.files import check_file
from torchrec_priors.common.system_errors import blame_the_system
from torchrec_priors.errors import UserError, shown
from torchrec_priors.parquet import ParquetReader
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_files import places, read_ids
from torchrec_priors.prepared.id_texts import id_texts, plain_array

_ID = "item_id"
_VECTOR = "vector"
_COLUMNS = [_ID, _VECTOR]
_NUMBERS_AT_A_TIME = 1 << 24


@dataclass
class VectorFile:
    """A file of vectors, and what was found in it.

    Attributes:
        file: Parquet with the columns `item_id` (original ids) and `vector` (lists of
            floating-point numbers), or a NumPy array [vectors, d].
        data: the data set.
        option: the option that names the file, for messages.
        dim: d; 0 for the width of the first vector, which then becomes the value.
        expected: what decides d, for messages.
        ids: for a NumPy array, the file with the ids of its rows.
        in_file_I: bool, whether the file has a vector for an item of the data set.
        unknown: the number of vectors of other items, which were left out.
    """

    file: Path
    data: PreparedData
    option: str
    dim: int = 0
    expected: str = "the first has {dim}"
    ids: Path | None = None
    in_file_I: np.ndarray = field(init=False)
    unknown: int = 0

    def __post_init__(self) -> None:
        self.in_file_I = np.zeros(self.data.items, bool)

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Reads the file once.

        Yields:
            Row ids of some items, int64 [N], and their vectors, float32 [N, d].

        Raises:
            UserError: the file cannot be read, or does not have this form; or all its items are
                unknown.
        """
        where = f"items of '{self.data.folder}'"
        texts = id_texts(self.data.catalogue([_ID])[_ID], where)
        for ids, vector_Nd in self._parts():
            item_N = places(ids, texts)
            self.unknown += int((item_N < 0).sum())
            vector_Nd = vector_Nd[item_N >= 0]
            item_N = item_N[item_N >= 0]
            self._check_once(item_N, texts)
            yield item_N, vector_Nd

        if not self.in_file_I.any():
            raise UserError(
                f"{self.option}: '{self.file}' has vectors of {self.unknown:,} items, none of them "
                f"in '{self.data.manifest.name}'"
            )

    def _check_once(self, item_N: np.ndarray, texts: pa.Array) -> None:
        """Notes items, and raises UserError if one has two vectors."""
        # An item may occur twice in this batch, or may have occurred in an earlier one.
        again_N = self.in_file_I[item_N]
        first_places = np.unique(item_N, return_index=True)[1]
        again_N[np.setdiff1d(np.arange(len(item_N)), first_places)] = True
        if again_N.any():
            item = shown(texts[int(item_N[np.argmax(again_N)])])
            raise UserError(f"{self.option}: '{self.file}' has two vectors of item {item}")
        self.in_file_I[item_N] = True

    def _parts(self) -> Iterator[tuple[pa.Array, np.ndarray]]:
        """Yields ids as texts, and their vectors, in the order of the file."""
        if self.ids is not None:
            yield from self._from_array(self.ids)
            return

        for first, batch in self._from_parquet():
            if batch[_ID].null_count:
                valid_N = batch[_ID].is_valid().to_numpy(zero_copy_only=False)
                row = first + int(np.argmin(valid_N))
                raise UserError(f"{self.option}: row {row + 1} of '{self.file}' has no item_id")
            vector_Nd = self._vectors(batch, first)
            yield id_texts(batch[_ID], f"{self.option}: '{self.file}'"), vector_Nd

    # NumPy arrays

    def _from_array(self, ids_file: Path) -> Iterator[tuple[pa.Array, np.ndarray]]:
        """Yields the rows of an array with the ids of a file."""
        where = f"{self.option}: '{self.file}'"
        check_file(self.file, self.option)
        try:
            # Objects in an array are code of its author, so they are not loaded.
            array = np.load(self.file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            blame_the_system(error, where)
            reason = str(error).splitlines()[0]
            raise UserError(f"{where} cannot be read as a NumPy array ({reason})") from error

        floating = isinstance(array, np.ndarray) and np.issubdtype(array.dtype, np.floating)
        if not floating or array.ndim != 2 or not array.shape[1]:
            raise UserError(
                f"{where} must be one array of floating-point numbers, [vectors, width]"
            )
        ids = read_ids(ids_file, _ID, option="--ids")
        if len(ids) != len(array):
            raise UserError(
                f"--ids: '{ids_file}' has {len(ids):,} ids, and {where} has {len(array):,} vectors"
            )
        self._set_dim(array.shape[1])

        step = max(1, _NUMBERS_AT_A_TIME // self.dim)
        for first in range(0, len(array), step):
            vector_Nd = np.asarray(array[first : first + step], np.float32)
            part = ids.slice(first, step)
            self._check_finite(vector_Nd, part, first)
            yield part, vector_Nd

    # Parquet

    def _from_parquet(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Checks the columns of a file, then yields batches, each with the index of its row."""
        where = f"{self.option}: '{self.file}'"
        try:
            with ParquetReader(self.file) as opened:
                self._check_columns(opened.schema)
                first = 0
                rows = max(1, _NUMBERS_AT_A_TIME // (self.dim or 1 << 10))
                for batch in opened.iter_batches(rows, _COLUMNS):
                    yield first, batch
                    first += len(batch)
        except FileNotFoundError as error:
            raise UserError(f"{self.option}: there is no file '{self.file}'") from error
        except (pa.ArrowException, OSError) as error:
            blame_the_system(error, where)
            raise UserError(
                f"{where} cannot be read as Parquet ({str(error).splitlines()[0]})"
            ) from error

    def _check_columns(self, schema: pa.Schema) -> None:
        """Raises UserError if a column is missing, or the vectors are not lists of numbers."""
        for column in _COLUMNS:
            if column not in schema.names:
                raise UserError(
                    f"{self.option}: '{self.file}' has no column '{column}' (it has "
                    f"{', '.join(schema.names)})"
                )

        # The length of fixed-size lists is checked here, and that of other lists for each row.
        kind = _storage_type(schema.field(_VECTOR).type)
        fixed = pa.types.is_fixed_size_list(kind)
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or fixed
        if not is_list or not pa.types.is_floating(kind.value_type):
            raise UserError(
                f"{self.option}: column 'vector' of '{self.file}' is {kind}: give lists of "
                "floating-point numbers"
            )
        if fixed:
            self._set_dim(kind.list_size)

    def _set_dim(self, found: int) -> None:
        """Takes the width of the whole file, which must be the expected one."""
        if self.dim and found != self.dim:
            expected = self.expected.format(dim=self.dim)
            raise UserError(
                f"{self.option}: vectors of '{self.file}' have {found} numbers, and {expected}"
            )
        self.dim = found

    def _vectors(self, batch: pa.RecordBatch, first: int) -> np.ndarray:
        """Returns the vectors of a batch, float32 [N, d].

        Args:
            first: index of the batch's first row, for messages.
        """
        # Fixed-size lists have a length even if they are null; null becomes length 0.
        column = plain_array(batch[_VECTOR])
        length_N = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        if pa.types.is_fixed_size_list(column.type):
            length_N = np.where(column.is_valid().to_numpy(zero_copy_only=False), self.dim, 0)
        if not self.dim and len(length_N):
            self.dim = int(length_N[0])
        if (length_N != self.dim).any() or not self.dim:
            row = int(np.argmax(length_N != self.dim))
            has = "no vector"
            if length_N[row]:
                expected = self.expected.format(dim=self.dim)
                has = f"a vector of {length_N[row]} numbers, and {expected}"
            raise UserError(
                f"{self.option}: row {first + row + 1} of '{self.file}' (item "
                f"{shown(batch[_ID][row])}) has {has}"
            )

        # Nulls become NaN.
        flat = column.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
        vector_Nd: np.ndarray = flat.reshape(-1, self.dim)
        self._check_finite(vector_Nd, batch[_ID], first)
        return vector_Nd

    def _check_finite(self, vector_Nd: np.ndarray, ids: pa.Array, first: int) -> None:
        """Raises UserError if a number is not finite."""
        finite_N = np.isfinite(vector_Nd).all(1)
        if not finite_N.all():
            row = int(np.argmin(finite_N))
            raise UserError(
                f"{self.option}: row {first + row + 1} of '{self.file}' (item {shown(ids[row])}) "
                "has a number that is not finite"
            )


def _storage_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type in which an extension type stores its values."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
