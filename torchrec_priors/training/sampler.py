"""The sampler of a run's negatives, over the rows that this rank is responsible for."""

import numpy as np
import torch

from torchrec_priors.config import RunConfig
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.sampling.group_sampler import GroupSampler, OwnItems
from torchrec_priors.sampling.popularity import draw_weights
from torchrec_priors.training.build import Built


def make_sampler(built: Built, config: RunConfig, data: PreparedData, ranks: Ranks) -> GroupSampler:
    """The sampler of a table whose rows stay with their items; see `Admission` for a managed table.

    Every rank must call it: ranks exchange how much of each item set they have.
    """
    rows = built.model.item_rows
    assert isinstance(rows, ItemRows), "the items of a managed table change: see `Admission`"
    first = built.own.first
    last = built.own.last

    held = rows.held(first, last)
    places = built.model.tree.eligible_among(held.item_C)
    sets = [np.unique(held.row_C[of_set]) for of_set in places]
    if config.negatives.shared:
        sets.append(np.arange(first, last))

    weights = np.ones(last - first, np.int64)
    if config.negatives.popularity:
        frequency = data.catalogue(["frequency"])["frequency"].to_numpy()
        weights = draw_weights(rows.per_row(frequency), config.negatives.popularity)[first:last]

    own = OwnItems.weighted(sets, first, weights)
    return sampler_over(own, config, ranks, built.positives_S.numpy())


def sampler_over(
    own: OwnItems, config: RunConfig, ranks: Ranks, positives_S: np.ndarray
) -> GroupSampler:
    """The sampler of all ranks' items, of which this rank has `own`. Every rank must call it.

    Args:
        positives_S: training positives of every item set.
    """
    # Each rank fills in its own sizes, and the sum has those of all.
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
