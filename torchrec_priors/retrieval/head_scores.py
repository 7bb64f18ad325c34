"""Every head's score of the items that were found, which explains them.

A search keeps only the fused score of an item and the path that gave it: of all paths, most items
would be kept in vain. The others are computed here, once, for the k items of each user.

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
    """For one user after another, the scores of its items by all paths: [items, K], on the CPU.

    A score is -inf if the path is closed to the user. Whether a path may retrieve an item is not
    looked at. Under max fusion the score of the path that won is the search's own, to the last bit.

    Every rank must call it with the same users and items, and go through all users.

    Args:
        queries: those of the search.
    """
    row_Bk = found.row_Bk.cpu()
    path_Bk = found.path_Bk.cpu()
    score_Bk = found.score_Bk.cpu()
    item_M = row_Bk[row_Bk >= 0].numpy()
    lengths = (row_Bk >= 0).sum(1).tolist()

    # The lookup is a collective: without any item, some item is looked up.
    looked_up = item_M
    if not len(item_M):
        looked_up = np.full(1, finder.model.item_rows.an_item)
    ids, _ = finder.to_ids(looked_up, np.array([len(looked_up)]))
    vectors_Md = finder.model.score.items(finder.model.lookup(ids)[0])[: len(item_M)]

    # One user at a time: [users, k, K] scores may be too many to hold.
    for user, vectors_kd in enumerate(vectors_Md.split(lengths)):
        score_kK = (vectors_kd @ queries.vector_BKd[user].T + queries.bias_BK[user]).cpu()
        if finder.fusion.kind == "max":
            places = torch.arange(len(vectors_kd))
            won_k = path_Bk[user, : len(vectors_kd)]
            score_kK[places, won_k] = score_Bk[user, : len(vectors_kd)]
        yield score_kK
