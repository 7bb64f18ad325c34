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
from torchrec_priors.retrieval.head_scores import head_scores
from torchrec_priors.serving.request import Request


@dataclass(frozen=True)
class Answer:
    """One recommended item.

    Attributes:
        row: its row id.
        score: the fused score.
        path: the path that gave it, or most of it.
        scores: by path, the score of every path that may retrieve the item for this user in this
            request.
    """

    row: int
    score: float
    path: int
    scores: dict[int, float]


def answer(
    finder: Finder, histories: list[History], request: Request
) -> tuple[list[list[Answer]], Tensor]:
    """Answers a request for each history, with a model in evaluation mode.

    Every rank must call it with the same histories, all of which have the same columns.

    Returns:
        The items of each history, best first; and bool [B, J]: whether a list has fewer items of a
        group than its share.

    Raises:
        UserError: none of the heads that are left may answer for one of the users.
    """
    users = _as_users(histories, finder.context)
    queries = request.queries(finder, users)
    # A user for whom all paths are closed would get an empty list without a reason.
    if request.bias_K is not None and torch.isneginf(queries.bias_BK).all(1).any():
        raise UserError(
            "only, mute: the heads that are left belong to groups that this user is not in: "
            "name heads of this user's groups"
        )

    found, short_BJ = request.find(finder, users, queries)
    row_Bk = found.row_Bk.cpu()
    score_Bk = found.score_Bk.cpu()
    path_Bk = found.path_Bk.cpu()
    # Lists share many items, so the paths of each are looked up once.
    paths_of = {
        row: _paths_of(finder.model.tree, row)
        for row in np.unique(row_Bk[row_Bk >= 0].numpy()).tolist()
    }

    answers = []
    for user, score_kK in enumerate(head_scores(finder, queries, found)):
        best = []
        for place, row in enumerate(row_Bk[user, : len(score_kK)].tolist()):
            # Paths of other groups of users, or without a say in this request, have -inf.
            scores = {path: float(score_kK[place, path]) for path in paths_of[row]}
            best.append(
                Answer(
                    row=row,
                    score=float(score_Bk[user, place]),
                    path=int(path_Bk[user, place]),
                    scores={path: score for path, score in scores.items() if score != -math.inf},
                )
            )
        answers.append(best)
    return answers, short_BJ


def _as_users(histories: list[History], context: int) -> Histories:
    """The histories as a batch of users without targets, numbered in their order."""
    # What is asked for is the future, so there are no targets.
    nothing = [np.empty(0, np.int64)] * len(histories)
    columns = {
        name: [history.columns[name] for history in histories] for name in histories[0].columns
    }
    return Histories.of(
        pa.array(range(len(histories))),
        [history.items for history in histories],
        nothing,
        context,
        columns,
        [history.user for history in histories],
    )


def _paths_of(tree: PriorTree, row: int) -> list[int]:
    """Paths that may retrieve an item."""
    # `eligible` takes a range of rows: here of a single one.
    sets = {number for number, members in enumerate(tree.eligible(row, row + 1)) if len(members)}
    return [number for number, path in enumerate(tree.paths) if path.item_set in sets]
