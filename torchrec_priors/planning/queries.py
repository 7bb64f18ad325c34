"""Counts the queries and positives of a token, in some windows of a data set."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from torchrec_priors.data.batch import make_batch
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.data.windows import WindowStream
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.heads.joint_rows import JointRows
from torchrec_priors.heads.nodes import nodes
from torchrec_priors.heads.repeat_head import RepeatTargets, find_repeats
from torchrec_priors.loss import Positives, find_positives
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.joint import JointPaths
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.sampling.group_sampler import Draw
from torchrec_priors.settings.run_config import RunConfig

_WINDOWS = 256


@dataclass(frozen=True)
class Queries:
    """Averages over the tokens of some windows.

    Attributes:
        queries: the number of different paths that have a positive; with a joint softmax, of all
            paths that compete with one.
        positives: the number of positives, over all of these paths.
        above: the number of distinct nodes on these paths, except those at the last depth.
        occurrences: the number of occurrences of the token's targets in the context up to the
            token; 0 without a repeat head.
    """

    queries: float
    positives: float
    above: float
    occurrences: float = 0.0

    @classmethod
    def of(
        cls, positives: Positives, tree: PriorTree, repeats: RepeatTargets | None = None
    ) -> "Queries":
        """Counts the queries of some positives, and the occurrences of their targets."""
        tokens = max(len(positives.reach_N), 1)
        above = 0
        for depth in nodes(tree)[:-1]:
            # Each pair of a node and a token has a different number.
            node_and_token_P = depth.node_K[positives.path_P] * tokens + positives.token_P
            above += len(torch.unique(node_and_token_P))
        return cls(
            queries=len(positives.token_P) / tokens,
            positives=len(positives.query_M) / tokens,
            above=above / tokens,
            occurrences=0.0 if repeats is None else len(repeats.target_O) / tokens,
        )


def queries_in(config: RunConfig, data: PreparedData, tree: PriorTree) -> Queries:
    """Counts queries and positives in the first windows of a run.

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
    # The number of queries does not depend on the negatives.
    no_negatives = Draw(np.zeros(0, np.int64), None, [np.zeros(0, np.int64)], [], 0)
    batch = make_batch(next(iter(stream)), no_negatives, feature=FEATURE, seed=config.seed)

    part = batch.parts[0]
    positives = find_positives(
        tree,
        batch.item_X,
        part.context_N,
        part.end_N,
        config.model.horizon,
        event_X=batch.event_X,
        user_N=part.user_N,
    )
    if config.loss.softmax == "joint":
        positives = _with_all_pairs(positives, tree)
    repeats = None
    if config.repeats.weight:
        repeats = find_repeats(
            batch.item_X, part.context_N, part.end_N, part.offsets_B1, config.model.horizon
        )
    return Queries.of(positives, tree, repeats)


def _with_all_pairs(positives: Positives, tree: PriorTree) -> Positives:
    """Returns the positives with all (token, path) pairs that a joint softmax needs."""
    token_M = positives.token_P[positives.query_M]
    tokens = len(positives.reach_N)
    rows = JointRows.of(JointPaths.of(tree), tree.item_set_K, token_M, positives.path_M, tokens)
    return replace(positives, token_P=rows.token_P, path_P=rows.path_P)
