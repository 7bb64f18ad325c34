"""Answers a request for some histories: the recommended items, with each head's scores."""

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
        row: the row id of the item.
        score: the fused score of the item.
        path: the path that gave the score, or that contributed most to it.
        scores: the score of each path that may retrieve the item for this user in this request, by
            path number.
    """

    row: int
    score: float
    path: int
    scores: dict[int, float]


def answer(
    finder: Finder, histories: list[History], request: Request
) -> tuple[list[list[Answer]], Tensor]:
    """Recommends items for each history.

    Every rank must call it with the same histories.

    Args:
        finder: the finder, with its model in evaluation mode.
        histories: the histories, all with the same columns.
        request: the request.

    Returns:
        The recommended items for each history, best first; and bool [B, J], whether a list has
        fewer items of a group than the request demands.

    Raises:
        UserError: all heads that the request allows are closed to one of the users.
    """
    users = finder.contexts(_as_users(histories, finder.context))
    queries = request.queries(finder, users)
    # Without this check, a user with only closed paths would get an empty list, without a reason.
    closed_B = torch.isneginf(queries.bias_BK).all(1)
    if request.bias_K is not None and queries.repeats is None and closed_B.any():
        raise UserError(
            "only, mute: the heads that are left belong to groups that this user is not in: "
            "name heads of this user's groups"
        )

    found, short_BJ = request.find(finder, users, queries)
    row_Bk = found.row_Bk.cpu()
    score_Bk = found.score_Bk.cpu()
    path_Bk = found.path_Bk.cpu()
    # The lists of users have many items in common, so the paths of each item are looked up once.
    paths_of_item = {
        row: _paths_of(finder.model.tree, row)
        for row in np.unique(row_Bk[row_Bk >= 0].numpy()).tolist()
    }

    answers = []
    for user, score_kK in enumerate(head_scores(finder, queries, found)):
        items = []
        for rank, row in enumerate(row_Bk[user, : len(score_kK)].tolist()):
            # A path has the score -inf if it is closed to the user, or excluded by the request.
            paths = paths_of_item[row]
            scores = {path: float(score_kK[rank, path]) for path in paths}
            # Only the repeat head gives an item of the history a score.
            if int(path_Bk[user, rank]) == score_kK.shape[1]:
                scores = {score_kK.shape[1]: float(score_Bk[user, rank])}
            items.append(
                Answer(
                    row=row,
                    score=float(score_Bk[user, rank]),
                    path=int(path_Bk[user, rank]),
                    scores={path: score for path, score in scores.items() if score != -math.inf},
                )
            )
        answers.append(items)
    return answers, short_BJ


def _as_users(histories: list[History], context: int) -> Histories:
    """Makes a batch of users from histories; the ids of the users are their positions."""
    # The targets are unknown: they are the interactions that the request asks for.
    no_targets = [np.empty(0, np.int64)] * len(histories)
    columns = {
        name: [history.columns[name] for history in histories] for name in histories[0].columns
    }
    return Histories.of(
        pa.array(range(len(histories))),
        [history.items for history in histories],
        no_targets,
        context,
        columns,
        [history.user for history in histories],
    )


def _paths_of(tree: PriorTree, row: int) -> list[int]:
    """Returns the numbers of the paths that may retrieve an item."""
    # `eligible` takes a range of row ids; this one has a single row id.
    sets = {number for number, rows in enumerate(tree.eligible(row, row + 1)) if len(rows)}
    return [number for number, path in enumerate(tree.paths) if path.item_set in sets]
