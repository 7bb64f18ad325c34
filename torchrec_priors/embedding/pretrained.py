"""Vectors of a file as first values of the item table: every rank reads the file in pieces and keeps what it holds."""

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
_ENTRIES = 1 << 24  # numbers that are read at once


def take_pretrained(file: Path, own: OwnRows, rows: Rows, data: PreparedData) -> None:
    """Fills the rows of items that the file has vectors of; the others keep their first values. All of it is counted.

    Args:
        file: Parquet with `item_id`, original ids, and `vector`, lists of as many numbers as the table has columns.
        own: this rank's part of the item table.

    Raises:
        UserError: no such file; a vector that is missing, of another length, or with what is no finite number; an item
            that stands there twice; no item of the data set; a managed table.
    """
    if isinstance(rows, ManagedRows):
        raise UserError(
            f"{_OPTION} needs items that keep their rows: embedding.unseen = managed has none"
        )
    dim = own.plan.table.columns
    texts = id_texts(data.catalogue(["item_id"])["item_id"], f"items of '{data.folder}'")
    recommendable_I = np.zeros(data.items, bool)
    unknown = 0
    for first, batch in _batches(file, dim):
        if batch["item_id"].null_count:
            row = first + int(np.argmin(batch["item_id"].is_valid().to_numpy(zero_copy_only=False)))
            raise UserError(f"{_OPTION}: row {row + 1} of '{file}' has no item_id")
        vector_Nd = _vectors(file, batch, first, dim)
        item_N = places(id_texts(batch["item_id"], f"{_OPTION}: '{file}'"), texts)
        unknown += int((item_N < 0).sum())
        vector_Nd = vector_Nd[item_N >= 0]
        item_N = item_N[item_N >= 0]
        twice_N = recommendable_I[item_N]
        twice_N[np.setdiff1d(np.arange(len(item_N)), np.unique(item_N, return_index=True)[1])] = (
            True
        )
        if twice_N.any():
            raise UserError(
                f"{_OPTION}: '{file}' has two vectors of item {shown(texts[int(item_N[np.argmax(twice_N)])])}"
            )
        recommendable_I[item_N] = True
        alone_N = np.ones(len(item_N), bool) if rows.own_row_I is None else rows.own_row_I[item_N]
        _fill(own, rows.to_ids(item_N[alone_N]), vector_Nd[alone_N])
    if not recommendable_I.any():
        raise UserError(
            f"{_OPTION}: '{file}' has vectors of {unknown:,} items, none of them in '{data.manifest.name}'"
        )
    own_row_I = np.ones(data.items, bool) if rows.own_row_I is None else rows.own_row_I
    log.info(
        "%s: vectors of %s of %s items; %s keep their first values; %s items of the file are unknown, "
        "%s have no row to themselves",
        _OPTION,
        f"{(recommendable_I & own_row_I).sum():,}",
        f"{data.items:,}",
        f"{(~recommendable_I & own_row_I).sum():,}",
        f"{unknown:,}",
        f"{(recommendable_I & ~own_row_I).sum():,}",
    )


def _batches(file: Path, dim: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of its first row, some rows) of a file whose columns are what they must be."""
    try:
        with ParquetReader(file) as opened:
            schema = opened.schema
            for column in _COLUMNS:
                if column not in schema.names:
                    raise UserError(
                        f"{_OPTION}: '{file}' has no column '{column}' (it has {', '.join(schema.names)})"
                    )
            kind = _stored(schema.field("vector").type)
            is_list = (
                pa.types.is_list(kind)
                or pa.types.is_large_list(kind)
                or pa.types.is_fixed_size_list(kind)
            )
            if not is_list or not pa.types.is_floating(kind.value_type):
                raise UserError(
                    f"{_OPTION}: column 'vector' of '{file}' is {kind}: give lists of floating-point numbers"
                )
            if pa.types.is_fixed_size_list(kind) and kind.list_size != dim:
                raise UserError(
                    f"{_OPTION}: vectors of '{file}' have {kind.list_size} numbers, and model.dim = {dim}"
                )
            first = 0
            for batch in opened.iter_batches(max(1, _ENTRIES // dim), _COLUMNS):
                yield first, batch
                first += len(batch)
    except FileNotFoundError as error:
        raise UserError(f"{_OPTION}: there is no file '{file}'") from error
    except (pa.ArrowException, OSError) as error:
        blame_the_system(error, f"{_OPTION}: '{file}'")
        raise UserError(
            f"{_OPTION}: '{file}' cannot be read as Parquet ({str(error).splitlines()[0]})"
        ) from error


def _vectors(file: Path, batch: pa.RecordBatch, first: int, dim: int) -> np.ndarray:
    """float32 [N, d]."""
    column = plain_array(batch["vector"])
    length_N = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(column.type):
        length_N = np.where(column.is_valid().to_numpy(zero_copy_only=False), dim, 0)
    if (length_N != dim).any():
        row = int(np.argmax(length_N != dim))
        has = (
            f"a vector of {length_N[row]} numbers, and model.dim = {dim}"
            if length_N[row]
            else "no vector"
        )
        raise UserError(
            f"{_OPTION}: row {first + row + 1} of '{file}' (item {shown(batch['item_id'][row])}) has {has}"
        )
    flat = column.flatten().cast(pa.float32())
    vector_Nd: np.ndarray = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)  # nulls become NaN
    good_N = np.isfinite(vector_Nd).all(1)
    if not good_N.all():
        row = int(np.argmin(good_N))
        item = shown(batch["item_id"][row])
        raise UserError(
            f"{_OPTION}: row {first + row + 1} of '{file}' (item {item}) has what is no finite number"
        )
    return vector_Nd


def _stored(kind: pa.DataType) -> pa.DataType:
    """What an extension type is stored as."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _fill(own: OwnRows, row_N: np.ndarray, vector_Nd: np.ndarray) -> None:
    for shard in own.shards:
        here_N = (row_N >= shard.first) & (row_N < shard.last)
        columns = slice(shard.first_column, shard.first_column + shard.rows.shape[1])
        with torch.no_grad():
            place = torch.from_numpy(row_N[here_N] - shard.first).to(shard.rows.device)
            shard.rows[place] = torch.from_numpy(vector_Nd[here_N, columns].copy()).to(
                shard.rows.device
            )
