"""Which items a run has seen often enough in training: counted when it starts, kept in its folder.

The file is `seen.parquet`.

Shapes: I items.
"""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from torchrec_priors.common.files import new_file
from torchrec_priors.common.system_errors import blame_the_system
from torchrec_priors.embedding.managed import ManagedRows
from torchrec_priors.embedding.rows import Rows
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import read_table, write_table
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.settings.embedding import UnseenConfig
from torchrec_priors.settings.training import TrainingConfig

log = logging.getLogger(__name__)

_BECOMES = {
    "dropped": "left out of histories, not recommended",
    "shared": "one row for all of them, not recommended",
    "hashed": "{rows:,} rows by their hash, recommended by these",
}


def training_frequency(data: PreparedData, settings: TrainingConfig, ranks: Ranks) -> np.ndarray:
    """Counts the interactions of each item that are trained on, int64 [I]. Every rank must call it.

    Args:
        settings: with `fit_all`, all interactions are trained on.
    """
    # The catalogue has the frequencies of the training part.
    if not settings.fit_all:
        return data.catalogue(["frequency"])["frequency"].to_numpy().astype(np.int64)

    # With `fit_all` the rest of the histories counts, too; each rank reads its share of the users.
    count = torch.zeros(data.items, dtype=torch.int64)
    for group in data.row_groups[ranks.rank :: ranks.world]:
        items = torch.from_numpy(data.read_users(group).items)
        count += torch.bincount(items, minlength=data.items)
    return ranks.total(count).numpy()


def say_unseen(config: UnseenConfig, rows: Rows, frequency: np.ndarray | None) -> None:
    """Logs how many items are unseen, what becomes of them, and settings without effect."""
    for key in config.without_effect():
        log.warning("%s has no effect with embedding.unseen = '%s'", key, config.unseen)

    # What a managed table holds changes during training, so there is nothing to count yet.
    if isinstance(rows, ManagedRows):
        log.info(
            "%s rows for the %s items: admitted as training meets them, evicted by %s every %s "
            "steps",
            f"{rows.rows - config.blocks:,}",
            f"{rows.items:,}",
            config.eviction,
            f"{config.eviction_interval:,}",
        )
        return

    if rows.own_row_I is None or frequency is None:
        return

    # The share is that of interactions: few of them may belong to many items.
    unseen = ~rows.own_row_I
    share = frequency[unseen].sum() / max(frequency.sum(), 1)
    log.info(
        "%s of %s items have fewer than %s training interactions, %.2f %% of all: %s",
        f"{unseen.sum():,}",
        f"{len(unseen):,}",
        config.min_frequency,
        100 * share,
        _BECOMES[config.unseen].format(rows=config.hashed_rows),
    )


def write_seen(file: Path, seen_I: np.ndarray | None) -> None:
    """Writes the row ids of the seen items: the whole file or nothing.

    Args:
        seen_I: bool; None, if all items have their rows, writes no file.
    """
    if seen_I is None:
        return
    items = np.flatnonzero(seen_I).astype(np.int32)
    with new_file(file) as partial:
        write_table(pa.table({"item": pa.array(items)}), partial)


def read_seen(file: Path, items: int) -> np.ndarray:
    """Reads which items were seen, bool [I].

    Args:
        items: how many items the data set had.

    Raises:
        UserError: the file does not exist, or is of other items.
    """
    try:
        item = read_table(file, ["item"])["item"].to_numpy()
    except (pa.ArrowException, OSError) as error:
        blame_the_system(error, f"'{file}'")
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{file}, which says what items have rows, cannot be read ({reason}): train again"
        ) from error

    # NumPy takes negative indices from the end, so these must be noticed here.
    if len(item) and not 0 <= item.min() <= item.max() < items:
        raise UserError(
            f"{file} names an item outside the catalogue of {items:,} that it was written for: "
            "train again"
        )
    seen_I = np.zeros(items, bool)
    seen_I[item] = True
    return seen_I
