"""Reads a file of vectors as initial values of the item table.

Every rank reads the whole file, in pieces, and keeps the rows that it holds.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from torchrec_priors.common.system_errors import blame_the_system
from torchrec_priors.embedding.managed import ManagedRows
from torchrec_priors.embedding.own_rows import OwnRows
from torchrec_priors.embedding.rows import Rows
from torchrec_priors.errors import UserError, shown
from torchrec_priors.parquet import ParquetReader
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_files import places
from torchrec_priors.prepared.id_texts import id_texts, plain_array

log = logging.getLogger(__name__)

_OPTION = "table.pretrained"
_COLUMNS = ["item_id", "vector"]
_NUMBERS_AT_A_TIME = 1 << 24


def take_pretrained(file: Path, own: OwnRows, rows: Rows, data: PreparedData) -> None:
    """Fills the rows of items that have vectors in the file. Other items keep their initial values.

    It logs how many items there are of each kind.

    Args:
        file: Parquet file with the columns `item_id` (original ids) and `vector` (lists with one
            number for each column of the table).
        own: this rank's part of the item table.
        rows: the map from items to rows.
        data: the data set.

    Raises:
        UserError: the file does not exist; a vector is missing, has another length, or is not
            finite; an item has two vectors; no item of the file is in the data set; the table is
            managed.
    """
    if isinstance(rows, ManagedRows):
        raise UserError(
            f"{_OPTION} needs items that keep their rows: embedding.unseen = managed has none"
        )

    dim = own.plan.table.columns
    texts = id_texts(data.catalogue(["item_id"])["item_id"], f"items of '{data.folder}'")
    in_file_I = np.zeros(data.items, bool)
    unknown = 0
    for first, batch in _batches(file, dim):
        if batch["item_id"].null_count:
            row = first + int(np.argmin(batch["item_id"].is_valid().to_numpy(zero_copy_only=False)))
            raise UserError(f"{_OPTION}: row {row + 1} of '{file}' has no item_id")

        # Every rank checks all vectors, so all ranks fail with the same message.
        vector_Nd = _vectors(file, batch, first, dim)
        item_N = places(id_texts(batch["item_id"], f"{_OPTION}: '{file}'"), texts)
        unknown += int((item_N < 0).sum())
        vector_Nd = vector_Nd[item_N >= 0]
        item_N = item_N[item_N >= 0]

        # An item may occur twice in this batch, or may have occurred in an earlier one.
        again_N = in_file_I[item_N]
        first_places = np.unique(item_N, return_index=True)[1]
        again_N[np.setdiff1d(np.arange(len(item_N)), first_places)] = True
        if again_N.any():
            item = shown(texts[int(item_N[np.argmax(again_N)])])
            raise UserError(f"{_OPTION}: '{file}' has two vectors of item {item}")
        in_file_I[item_N] = True

        # A row that several items share keeps its initial values.
        own_N: np.ndarray = np.ones(len(item_N), bool)
        if rows.own_row_I is not None:
            own_N = rows.own_row_I[item_N]
        _fill(own, rows.to_ids(item_N[own_N]), vector_Nd[own_N])

    if not in_file_I.any():
        raise UserError(
            f"{_OPTION}: '{file}' has vectors of {unknown:,} items, none of them in "
            f"'{data.manifest.name}'"
        )

    own_row_I = np.ones(data.items, bool) if rows.own_row_I is None else rows.own_row_I
    log.info(
        "%s: vectors of %s of %s items; %s keep their first values; %s items of the file are "
        "unknown, %s have no row of their own",
        _OPTION,
        f"{(in_file_I & own_row_I).sum():,}",
        f"{data.items:,}",
        f"{(~in_file_I & own_row_I).sum():,}",
        f"{unknown:,}",
        f"{(in_file_I & ~own_row_I).sum():,}",
    )


def _batches(file: Path, dim: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Checks the columns of a file, then yields batches, each with the index of its first row."""
    try:
        with ParquetReader(file) as opened:
            _check_columns(file, opened.schema, dim)

            first = 0
            for batch in opened.iter_batches(max(1, _NUMBERS_AT_A_TIME // dim), _COLUMNS):
                yield first, batch
                first += len(batch)
    except FileNotFoundError as error:
        raise UserError(f"{_OPTION}: there is no file '{file}'") from error
    except (pa.ArrowException, OSError) as error:
        blame_the_system(error, f"{_OPTION}: '{file}'")
        raise UserError(
            f"{_OPTION}: '{file}' cannot be read as Parquet ({str(error).splitlines()[0]})"
        ) from error


def _check_columns(file: Path, schema: pa.Schema, dim: int) -> None:
    """Raises UserError if a file lacks a column, or its vectors are not lists of `dim` numbers."""
    for column in _COLUMNS:
        if column not in schema.names:
            raise UserError(
                f"{_OPTION}: '{file}' has no column '{column}' (it has {', '.join(schema.names)})"
            )

    # The length of fixed-size lists is checked here, and that of other lists for each row.
    kind = _storage_type(schema.field("vector").type)
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise UserError(
            f"{_OPTION}: column 'vector' of '{file}' is {kind}: give lists of floating-point "
            "numbers"
        )
    if pa.types.is_fixed_size_list(kind) and kind.list_size != dim:
        raise UserError(
            f"{_OPTION}: vectors of '{file}' have {kind.list_size} numbers, and model.dim = {dim}"
        )


def _vectors(file: Path, batch: pa.RecordBatch, first: int, dim: int) -> np.ndarray:
    """Returns the vectors of a batch, float32 [N, d].

    Args:
        file: the file, for messages.
        batch: the batch.
        first: index of the batch's first row, for messages.
        dim: d.
    """
    # Fixed-size lists have a length even if they are null; null becomes length 0.
    column = plain_array(batch["vector"])
    length_N = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(column.type):
        length_N = np.where(column.is_valid().to_numpy(zero_copy_only=False), dim, 0)
    if (length_N != dim).any():
        row = int(np.argmax(length_N != dim))
        has = "no vector"
        if length_N[row]:
            has = f"a vector of {length_N[row]} numbers, and model.dim = {dim}"
        raise UserError(
            f"{_OPTION}: row {first + row + 1} of '{file}' (item {shown(batch['item_id'][row])}) "
            f"has {has}"
        )

    flat = column.flatten().cast(pa.float32())
    vector_Nd: np.ndarray = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)  # nulls become NaN
    finite_N = np.isfinite(vector_Nd).all(1)
    if not finite_N.all():
        row = int(np.argmin(finite_N))
        item = shown(batch["item_id"][row])
        raise UserError(
            f"{_OPTION}: row {first + row + 1} of '{file}' (item {item}) has a number that is "
            "not finite"
        )
    return vector_Nd


def _storage_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type in which an extension type stores its values."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _fill(own: OwnRows, row_N: np.ndarray, vector_Nd: np.ndarray) -> None:
    """Writes vectors to their rows, as far as this rank holds them."""
    for shard in own.shards:
        held_N = (row_N >= shard.first) & (row_N < shard.last)
        columns = slice(shard.first_column, shard.first_column + shard.rows.shape[1])
        index = torch.from_numpy(row_N[held_N] - shard.first)
        values = torch.from_numpy(vector_Nd[held_N, columns].copy())
        with torch.no_grad():
            shard.rows[index.to(shard.rows.device)] = values.to(shard.rows.device)
