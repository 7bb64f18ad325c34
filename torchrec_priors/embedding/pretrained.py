"""Reads a file of vectors as initial values of the item table.

Every rank reads the whole file, in pieces, and keeps the rows that it holds.
"""

import logging
from pathlib import Path

import numpy as np
import torch

from torchrec_priors.embedding.managed.rows import ManagedRows
from torchrec_priors.embedding.own_rows import OwnRows
from torchrec_priors.embedding.rows import Rows
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.vector_files import VectorFile

log = logging.getLogger(__name__)

_OPTION = "table.pretrained"


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

    # Every rank checks all vectors, so all ranks fail with the same message.
    vectors = VectorFile(file, data, _OPTION, own.plan.table.columns, "model.dim = {dim}")
    for item_N, vector_Nd in vectors.batches():
        # A row that several items share keeps its initial values.
        own_N: np.ndarray = np.ones(len(item_N), bool)
        if rows.own_row_I is not None:
            own_N = rows.own_row_I[item_N]
        _fill(own, rows.to_ids(item_N[own_N]), vector_Nd[own_N])

    in_file_I = vectors.in_file_I
    own_row_I = np.ones(data.items, bool) if rows.own_row_I is None else rows.own_row_I
    log.info(
        "%s: vectors of %s of %s items; %s keep their first values; %s items of the file are "
        "unknown, %s have no row of their own",
        _OPTION,
        f"{(in_file_I & own_row_I).sum():,}",
        f"{data.items:,}",
        f"{(~in_file_I & own_row_I).sum():,}",
        f"{vectors.unknown:,}",
        f"{(in_file_I & ~own_row_I).sum():,}",
    )


def _fill(own: OwnRows, row_N: np.ndarray, vector_Nd: np.ndarray) -> None:
    """Writes vectors to their rows, as far as this rank holds them."""
    for shard in own.shards:
        held_N = (row_N >= shard.first) & (row_N < shard.last)
        columns = slice(shard.first_column, shard.first_column + shard.rows.shape[1])
        index = torch.from_numpy(row_N[held_N] - shard.first)
        values = torch.from_numpy(vector_Nd[held_N, columns].copy())
        with torch.no_grad():
            shard.rows[index.to(shard.rows.device)] = values.to(shard.rows.device)
