"""Computes the query of every path at the end of each history, by prior heads or a baseline model.

Shapes: N tokens, B histories, d width, K paths.
"""

import torch
from torch import Tensor, nn

from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.heads.prior_heads import PriorHeads
from torchrec_priors.heads.score import Score
from torchrec_priors.settings.model import ScoreKind


def score_of(baseline: nn.Module | None, kind: ScoreKind) -> Score:
    """Returns a baseline's `new_score(kind)` if it defines one, otherwise `Score(kind)`."""
    new_score = getattr(baseline, "new_score", Score)
    score: Score = new_score(kind)
    return score


def ask_last(heads: PriorHeads, baseline: nn.Module | None, states: Jagged, paths: int) -> Tensor:
    """Returns the queries at the last position of each history, [B, K, d].

    They are not yet ready for scoring.

    Args:
        heads: the prior heads.
        baseline: the baseline model that is used instead of the heads; None if there is none.
        states: states of histories that are not empty.
        paths: K.
    """
    last_B = states.offsets_B1[1:] - 1
    if baseline is not None:
        query_BKd: Tensor = baseline.queries(states, last_B)  # type: ignore[operator]
        return query_BKd

    # A single history is that of a request, in which time is not to depend on the number of paths.
    if len(last_B) == 1:
        return heads.every_path(states.vector_Nd[last_B[0]])[None]

    # The heads need pairs in ascending order of paths, so users vary fastest.
    users = len(last_B)
    user_P = torch.arange(users, device=last_B.device).repeat(paths)
    path_P = torch.repeat_interleave(torch.arange(paths, device=last_B.device), users)

    query_Pd = heads(states.vector_Nd[last_B], user_P, path_P)
    return query_Pd.view(paths, users, -1).transpose(0, 1)
