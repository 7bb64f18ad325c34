"""Recommendations for one history, with every head's score for each item."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.evaluation import recommend, to_ids
from torchrec_priors.model import Recommender
from torchrec_priors.retrieval.group_index import GroupIndex


@dataclass(frozen=True)
class Answer:
    """One recommended item.

    Attributes:
        row: its row id.
        score: the fused score.
        path: the path that gave it.
        scores: the score of every path that may retrieve the item, by path.
    """

    row: int
    score: float
    path: int
    scores: dict[int, float]


def answer(
    model: Recommender,
    index: GroupIndex,
    history: np.ndarray,
    *,
    filter_seen: bool,
    k: int,
    device: torch.device,
) -> list[Answer]:
    """Top-k for a history of row ids. Every rank must call it with the same history."""
    users = Histories.of(pa.array([0]), [history], [np.empty(0, np.int64)], model.config.context)
    model.eval()
    found = recommend(model, index, users, filter_seen=filter_seen, k=k, device=device)
    rows = [row for row in found.row_Bk[0].tolist() if row >= 0]
    with torch.no_grad():
        query_Kd = model.queries(to_ids(users.items, users.lengths, device))[0]
        vectors = model.score.items(model.lookup(to_ids(np.array(rows or [0]), np.array([len(rows or [0])]), device)))
        score_kK = (vectors @ query_Kd.T).cpu()
    answers = []
    for place, row in enumerate(rows):
        sets = {number for number, members in enumerate(model.tree.eligible(row, row + 1)) if len(members)}
        paths = [number for number, path in enumerate(model.tree.paths) if path.item_set in sets]
        answers.append(
            Answer(
                row=row,
                score=float(found.score_Bk[0, place]),
                path=int(found.path_Bk[0, place]),
                scores={number: float(score_kK[place, number]) for number in paths},
            )
        )
    return answers
