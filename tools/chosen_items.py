"""Evaluates a trained run on lists of some items only, for tools that look into models."""

from typing import Any

import numpy as np
import torch

from torchrec_priors.metrics.evaluation import OnBatch, evaluate
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.training.built import Built
from torchrec_priors.training.open_run import OpenRun


def evaluate_among(
    chosen_I: np.ndarray,
    opened: OpenRun,
    built: Built,
    ranks: Ranks,
    split: str,
    on_batch: OnBatch = lambda _users, _found, _given: None,
) -> dict[str, Any]:
    """Returns the metrics of lists that contain only the chosen items.

    Args:
        chosen_I: bool, whether an item may be in a list.
        opened, built: the run, and its model with the weights of the best checkpoint.
        ranks: the ranks that `opened` has joined.
        split: the split with the targets.
        on_batch: see `evaluate`.
    """
    index = built.fetch_index()
    return evaluate(
        built.model,
        index.restricted(torch.from_numpy(chosen_I)[index.item_C]),
        opened.data,
        split,
        opened.config.evaluation,
        share=ranks.share,
        device=ranks.device,
        columns=built.columns,
        by_group=(),
        total=ranks.total,
        on_batch=on_batch,
    )
