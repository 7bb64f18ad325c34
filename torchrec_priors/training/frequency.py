"""Counts how often items occur in training, and says how those that are unseen are treated.

`training/run/seen.py` explains which items are unseen.

Shapes: I items.
"""

import logging

import numpy as np
import torch

from torchrec_priors.embedding.managed.rows import ManagedRows
from torchrec_priors.embedding.rows import Rows
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.settings.embedding import UnseenConfig
from torchrec_priors.settings.training import TrainingConfig

log = logging.getLogger(__name__)

# For each value of `embedding.unseen`: how the run treats unseen items.
_TREATMENT = {
    "dropped": "left out of histories, not recommended",
    "shared": "one row for all of them, not recommended",
    "hashed": "they share {rows:,} rows by their hash, and are recommended by these",
    "content": "they have no rows, and are recommended by their content, if they have any",
}


def training_frequency(data: PreparedData, settings: TrainingConfig, ranks: Ranks) -> np.ndarray:
    """Counts the training interactions of each item, int64 [I]. Every rank must call it.

    Args:
        settings: with `fit_all`, all interactions are training interactions.
    """
    # The catalogue contains the frequencies in the training part of the data set.
    if not settings.fit_all:
        return data.catalogue(["frequency"])["frequency"].to_numpy().astype(np.int64)

    # With `fit_all` the whole histories count. Each rank reads its share of the users.
    count = torch.zeros(data.items, dtype=torch.int64)
    for group in data.row_groups[ranks.rank :: ranks.world]:
        items = torch.from_numpy(data.read_users(group).items)
        count += torch.bincount(items, minlength=data.items)
    return ranks.total(count).numpy()


def say_unseen(config: UnseenConfig, rows: Rows, frequency: np.ndarray | None) -> None:
    """Logs the number of unseen items, how the run treats them, and settings without effect."""
    for key in config.without_effect():
        log.warning("%s has no effect with embedding.unseen = '%s'", key, config.unseen)

    # A managed table admits and evicts items during training, so no item is unseen yet.
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

    # The log line also has the share of interactions, because many unseen items may account for
    # only a small part of all interactions.
    unseen = ~rows.own_row_I
    share = frequency[unseen].sum() / max(frequency.sum(), 1)
    log.info(
        "%s of %s items have fewer than %s training interactions, %.2f %% of all: %s",
        f"{unseen.sum():,}",
        f"{len(unseen):,}",
        config.min_frequency,
        100 * share,
        _TREATMENT[config.unseen].format(rows=config.hashed_rows),
    )
