"""Computes the scores that all heads give the found items, to explain why they were found.

A search keeps only the fused score of each item and one path, as most items do not get into a list.
The scores of all paths are computed afterwards, only for the k items of each user.

Shapes: B users, K paths, k results, d width.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.search_types import Found, Queries


@torch.no_grad()
def head_scores(finder: Finder, queries: Queries, found: Found) -> Iterator[Tensor]:
    """Computes the scores of all paths for each user's items.

    Every rank must call it with the same users and items, and go through all users.

    Args:
        finder: the finder that has searched.
        queries: the queries of the search.
        found: the items that the search has found.

    Yields:
        For one user after another, the scores [items, K] on the CPU. A score is -inf if the path is
        closed to the user. A path is also scored on items that it may not retrieve. With max
        fusion, the score of the path that gave the item its score is exactly that of the search.
    """
    row_Bk = found.row_Bk.cpu()
    path_Bk = found.path_Bk.cpu()
    score_Bk = found.score_Bk.cpu()
    item_M = row_Bk[row_Bk >= 0].numpy()
    lengths = (row_Bk >= 0).sum(1).tolist()

    vectors_Md = _vectors(finder, item_M)
    # One user at a time, as [users, k, K] scores may not fit into memory.
    for user, vectors_kd in enumerate(vectors_Md.split(lengths)):
        if finder.resident is not None:
            score_kK = finder.resident.scores(vectors_kd, queries.vector_BKd[user])
        else:
            score_kK = vectors_kd @ queries.vector_BKd[user].T
        score_kK = (score_kK + queries.bias_BK[user]).cpu()
        if finder.fusion.kind == "max":
            best_path_k = path_Bk[user, : len(vectors_kd)]
            # Path K, that of repeats, has no query.
            position_k = torch.nonzero(best_path_k < score_kK.shape[1])[:, 0]
            score_kK[position_k, best_path_k[position_k]] = score_Bk[user, position_k]
        yield score_kK


def _vectors(finder: Finder, item_M: np.ndarray) -> Tensor:
    """Returns the vectors of found items that scores are computed with. Every rank must call it."""
    if finder.is_local and finder.resident is not None:
        return finder.resident.vectors(item_M)

    # The lookup is a collective. A rank without items takes part with any item that has a row.
    looked_up = item_M
    if not len(item_M):
        looked_up = np.full(1, finder.model.item_rows.an_item)
    ids, item_N = finder.to_ids(looked_up, np.array([len(looked_up)]))
    return finder.model.item_factors(ids, item_N)[: len(item_M)]
