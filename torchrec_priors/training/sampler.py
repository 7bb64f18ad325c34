"""Creates the sampler that draws a run's negatives from the rows of all ranks."""

import numpy as np
import torch

from torchrec_priors.embedding.item_rows import Held, ItemRows
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.sampling.group_sampler import GroupSampler, OwnItems
from torchrec_priors.sampling.popularity import draw_weights
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.built import Built
from torchrec_priors.training.frequency import training_frequency


def make_sampler(built: Built, config: RunConfig, data: PreparedData, ranks: Ranks) -> GroupSampler:
    """Creates the sampler for a table in which every item keeps its row.

    For a managed table, `Admission` creates the sampler. Every rank must call this function,
    because ranks exchange the number of items that they have in each item set.
    """
    rows = built.model.item_rows
    assert isinstance(rows, ItemRows), "the items of a managed table change: see `Admission`"
    first = built.own.first
    last = built.own.last
    held = rows.held(first, last)
    own_rows = np.arange(first, last)
    if rows.content_rows:
        held = held.and_also(_trained_by_content(rows, config, data, ranks))
        own_rows = np.unique(held.row_C)
        last = rows.rows + rows.content_rows

    places = built.model.tree.eligible_among(held.item_C)
    sets = [np.unique(held.row_C[of_set]) for of_set in places]
    if config.negatives.shared:
        sets.append(own_rows)

    weights = np.ones(last - first, np.int64)
    if config.negatives.popularity:
        frequency = data.catalogue(["frequency"])["frequency"].to_numpy()
        weights = draw_weights(rows.per_row(frequency), config.negatives.popularity)[first:last]

    own = OwnItems.weighted(sets, first, weights)
    return sampler_over(own, config, ranks, built.positives_S.numpy())


def _trained_by_content(
    rows: ItemRows, config: RunConfig, data: PreparedData, ranks: Ranks
) -> Held:
    """Returns the items without a row that may be negatives. Every rank must call it.

    Items that training never sees as targets are no negatives: it would learn from them that what
    is new is wrong. As these rows follow those of the table, they belong to the last rank. They
    need no lookup.
    """
    frequency = training_frequency(data, config.training, ranks)
    held = rows.held(rows.rows, rows.rows + rows.content_rows)
    may_be_C = (frequency[held.item_C] > 0) & (ranks.rank == ranks.world - 1)
    return Held(held.item_C[may_be_C], held.row_C[may_be_C])


def sampler_over(
    own: OwnItems, config: RunConfig, ranks: Ranks, positives_S: np.ndarray
) -> GroupSampler:
    """Creates a sampler that draws from the items of all ranks. Every rank must call it.

    Args:
        own: the items of this rank.
        positives_S: the number of training positives of each item set.
    """
    # Each rank fills in its own sizes and leaves the others 0, so the sum has the sizes of all.
    sizes_S2 = torch.from_numpy(own.sizes())
    sizes_WS2 = torch.zeros(ranks.world, *sizes_S2.shape, dtype=torch.int64)
    sizes_WS2[ranks.rank] = sizes_S2
    return GroupSampler(
        own,
        ranks.total(sizes_WS2).numpy(),
        config.negatives,
        rank=ranks.rank,
        seed=config.seed,
        positives_S=positives_S,
    )
