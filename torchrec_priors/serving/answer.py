"""Recommendations for histories, with every head's score for each item."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import History
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.serving.request import Request


@dataclass(frozen=True)
class Answer:
    """One recommended item.

    Attributes:
        row: its row id.
        score: the fused score.
        path: the path that gave it, or most of it.
        scores: the score of every path that may retrieve the item for this user in this request, by path.
    """

    row: int
    score: float
    path: int
    scores: dict[int, float]


def answer(
    finder: Finder, histories: list[History], request: Request
) -> tuple[list[list[Answer]], Tensor]:
    """What a request gives for each history, by a model in evaluation mode; and bool [B, J]: whether there are fewer
    items of a group than its share.

    Every rank must call it with the same histories, all of which have the same columns.

    Raises:
        UserError: none of the heads that are left may answer for one of the users.
    """
    model = finder.model
    nothing = [np.empty(0, np.int64)] * len(histories)
    columns = {
        name: [history.columns[name] for history in histories] for name in histories[0].columns
    }
    rows = [history.items for history in histories]
    known = [history.user for history in histories]
    users = Histories.of(
        pa.array(range(len(histories))), rows, nothing, finder.context, columns, known
    )
    queries = request.queries(finder, users)
    if request.bias_K is not None and torch.isneginf(queries.bias_BK).all(1).any():
        raise UserError(
            "only, mute: the heads that may answer are of other groups of users: name some of this user's"
        )
    found, short_BJ = request.find(finder, users, queries)
    row_Bk = found.row_Bk.cpu()
    score_Bk = found.score_Bk.cpu()
    path_Bk = found.path_Bk.cpu()
    count_B = (row_Bk >= 0).sum(1)
    item_M = row_Bk[row_Bk >= 0].numpy()
    paths_of = {row: _paths_of(model.tree, row) for row in np.unique(item_M).tolist()}
    answers = []
    with torch.no_grad():
        looked_up = item_M if len(item_M) else np.full(1, model.item_rows.an_item)
        ids, _ = finder.to_ids(looked_up, np.array([len(looked_up)]))
        vectors_Md = model.score.items(model.lookup(ids)[0])
        for user, vectors_kd in enumerate(vectors_Md[: len(item_M)].split(count_B.tolist())):
            score_kK = (vectors_kd @ queries.vector_BKd[user].T + queries.bias_BK[user]).cpu()
            best = []
            for place, row in enumerate(row_Bk[user, : len(vectors_kd)].tolist()):
                scores = {path: float(score_kK[place, path]) for path in paths_of[row]}
                scores = {path: score for path, score in scores.items() if score != -math.inf}
                won = int(path_Bk[user, place])
                score = float(score_Bk[user, place])
                if finder.fusion.kind == "max":
                    scores[won] = score  # the search's own last digits
                best.append(Answer(row, score, won, scores))
            answers.append(best)
    return answers, short_BJ


def _paths_of(tree: PriorTree, row: int) -> list[int]:
    """Paths that may retrieve an item."""
    sets = {number for number, members in enumerate(tree.eligible(row, row + 1)) if len(members)}
    return [number for number, path in enumerate(tree.paths) if path.item_set in sets]
