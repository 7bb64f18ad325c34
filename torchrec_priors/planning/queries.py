"""How many queries and positives a token has, counted in some windows of a data set."""

from dataclasses import dataclass

import numpy as np
import torch

from torchrec_priors.config import RunConfig
from torchrec_priors.data.batch import make_batch
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.data.windows import WindowStream
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.heads.nodes import nodes
from torchrec_priors.loss import Positives, find_positives
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.sampling.group_sampler import Draw

_WINDOWS = 256


@dataclass(frozen=True)
class Queries:
    """Of a token, on average.

    Attributes:
        queries: distinct paths with a positive.
        positives: over all of them.
        above: distinct nodes above the last depth that their paths go through.
    """

    queries: float
    positives: float
    above: float

    @classmethod
    def of(cls, found: Positives, tree: PriorTree) -> "Queries":
        tokens = max(len(found.reach_N), 1)
        above = 0
        for depth in nodes(tree)[:-1]:
            above += len(torch.unique(depth.node_K[found.path_P] * tokens + found.token_P))
        return cls(len(found.token_P) / tokens, len(found.query_M) / tokens, above / tokens)


def queries_in(config: RunConfig, data: PreparedData, tree: PriorTree) -> Queries:
    """In the first windows of a run.

    Raises:
        UserError: no user has two training interactions.
    """
    stream = WindowStream(
        data,
        context=config.model.context,
        horizon=config.model.horizon,
        batch=_WINDOWS,
        seed=config.seed,
        shuffled_row_groups=1,
        columns=("events",) if "events" in tree.needs else (),
        training_end_U=training_ends(data, config.training),
    )
    nothing = Draw(np.zeros(0, np.int64), None, [np.zeros(0, np.int64)], [], 0)
    batch = make_batch(next(iter(stream)), nothing, feature=FEATURE, seed=config.seed)
    part = batch.parts[0]
    horizon = config.model.horizon
    of_users = part.user_N
    found = find_positives(
        tree,
        batch.item_X,
        part.context_N,
        part.end_N,
        horizon,
        event_X=batch.event_X,
        user_N=of_users,
    )
    return Queries.of(found, tree)
