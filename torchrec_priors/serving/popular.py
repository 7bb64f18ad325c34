"""Recommends popular items to users of whom no history is known.

Each path ranks its items by their popularity among the path's own interactions: those of its events
and of its groups of users. The score of item i is

    log P(i) = log((n_k(i) + p(i)) / (N_k + 1))

n_k(i) is the number of training interactions with item i that belong to path k's events and groups
of users, N_k that of all interactions of these groups of users, and p(i) = (n(i) + 1) / (N + I) the
popularity among everyone, which decides where path k has seen too little. All scores are
log-probabilities, so they are fused like calibrated scores.

Popularity is searched like a model: an item's vector has one number for each class of paths that
have the same events and groups of users, and a path's query picks the number of its class.

Shapes: B users, K paths, M classes, I items, C candidates.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from torchrec_priors.data.histories import Histories
from torchrec_priors.heads.score import Score
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.users import RowGroup
from torchrec_priors.priors.paths_of_users import GivenGroups
from torchrec_priors.priors.prior import Targets, is_of_users, needs_of
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.item_filter import Filters
from torchrec_priors.retrieval.resident import Resident
from torchrec_priors.retrieval.search import search
from torchrec_priors.retrieval.search_types import Exclusions, Found, Queries

log = logging.getLogger(__name__)

_SCORES = "score_IM"  # the name of the tensor in a file
_MOST_INTERACTIONS = 10_000_000  # that are counted; of a larger log, these are the first

# The levels of users and of events that a path goes through, with its groups.
_Class = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Popularity:
    """The popularity of all items among the interactions of each class of paths.

    Attributes:
        score_IM: log P(i), float32.
        class_K: the class of each path.
    """

    score_IM: Tensor
    class_K: list[int]

    @classmethod
    def read(cls, file: Path, tree: PriorTree) -> "Popularity":
        """Reads what `write` wrote for a run with the same tree."""
        classes, distinct = _classes(tree)
        return cls(load_file(file)[_SCORES], [distinct.index(one) for one in classes])

    def write(self, file: Path) -> None:
        """Writes the popularity as a safetensors file."""
        save_file({_SCORES: self.score_IM}, file)

    @staticmethod
    def needs_log(tree: PriorTree) -> bool:
        """Returns whether groups of users or events have heads, so that the log is read."""
        return _classes(tree)[1] != [()]

    @classmethod
    def of(cls, tree: PriorTree, data: PreparedData, training_ends: np.ndarray) -> "Popularity":
        """Counts the training interactions of each class.

        The log is read only if groups of users or events have heads.

        Args:
            tree: the prior tree.
            data: the data set.
            training_ends: the number of training interactions of each user.
        """
        classes, distinct = _classes(tree)
        frequency_I = data.catalogue(["frequency"])["frequency"].to_numpy().astype(np.float64)
        overall_I = (frequency_I + 1) / (frequency_I.sum() + len(frequency_I))

        if distinct == [()]:
            counts_MI = frequency_I[None]
            totals_M = frequency_I.sum(keepdims=True)
        else:
            counts_MI, totals_M = _count(tree, data, training_ends, distinct)
        chance_MI = (counts_MI + overall_I) / (totals_M[:, None] + 1)
        score_IM = torch.from_numpy(np.log(chance_MI).T.astype(np.float32)).contiguous()
        return cls(score_IM, [distinct.index(one) for one in classes])


class PopularItems:
    """Finds popular items. Any thread may call it if the run has one rank."""

    def __init__(self, finder: Finder, popularity: Popularity) -> None:
        """
        Args:
            finder: the finder of the run.
            popularity: the popularity of all items.
        """
        self._finder = finder
        self._popularity = popularity
        self._score = Score("dot")
        self._fusion = replace(finder.fusion, calibrated=True)
        score_IM = popularity.score_IM.to(finder.device)

        # The candidates and their sets are those of the model; only their vectors differ. Rows of
        # the table are not items, so the vectors of a rank are those of its candidates.
        self._index = finder.index.with_vectors(score_IM[finder.index.item_C])
        self._resident: Resident | None = None
        if finder.resident is not None:
            self._resident = Resident.of(self._index, self._score)
        classes = score_IM.shape[1]
        query_KM = torch.zeros(len(popularity.class_K), classes, device=finder.device)
        query_KM[torch.arange(len(query_KM)), popularity.class_K] = 1.0
        self._query_KM = query_KM

    def queries(self, users: Histories, given: GivenGroups | None) -> Queries:
        """Returns the queries of users: all paths that are open to them have one."""
        tree = self._finder.model.tree
        user_B = torch.from_numpy(users.users).to(self._finder.device)
        queries = Queries.unbiased(self._query_KM.expand(len(users), -1, -1))
        allowed_BK = tree.paths_of_users.allowed(user_B, given)
        if allowed_BK is not None:
            queries = queries.within(allowed_BK)
        if self._finder.config.fusion == "mean":
            # The heads of a user's several groups estimate the same probability.
            alternatives_BK = tree.paths_of_users.open_groups(user_B, given).log()
            queries = replace(queries, bias_BK=queries.bias_BK - alternatives_BK)
        return queries

    def find(self, users: Histories, queries: Queries, k: int, filters: Filters | None) -> Found:
        """Finds the k most popular items for each user. Every rank must call it.

        Items of the users' histories are left out if the run leaves them out.
        """
        excluded = None
        if self._finder.config.filter_seen:
            excluded = Exclusions.of(users.seen, users.seen_lengths)
        diversifier = self._finder.diversifier
        found = search(
            self._index,
            self._score,
            queries,
            excluded,
            k if diversifier is None else diversifier.searched(k),
            self._fusion,
            resident=self._resident,
            filters=filters,
        )
        return found if diversifier is None else diversifier.rerank(found).first(k)

    def head_scores(self, rows_k: np.ndarray, bias_K: Tensor) -> Tensor:
        """Returns the scores of all paths for some items, [k, K]; -inf for closed paths."""
        score_kM = self._popularity.score_IM[torch.from_numpy(rows_k)]
        return score_kM[:, self._popularity.class_K] + bias_K.cpu()


def _classes(tree: PriorTree) -> tuple[list[_Class], list[_Class]]:
    """Returns the class of each path, and the distinct classes."""
    classes = [_class_of(tree, path) for path in range(len(tree.paths))]
    return classes, sorted(set(classes))


def _class_of(tree: PriorTree, path: int) -> _Class:
    """Returns the levels of users and of events that a path goes through, with its groups."""
    parts = zip(tree.paths[path].levels, tree.paths[path].groups, strict=True)
    return tuple((level, group) for level, group in parts if needs_of(tree.levels[level]))  # type: ignore[arg-type]


def _count(
    tree: PriorTree, data: PreparedData, training_ends: np.ndarray, classes: list[_Class]
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the training interactions of each class.

    Returns:
        float64 [M, I], the interactions of each class with each item; and [M], the interactions of
        its groups of users.
    """
    counts_MI = np.zeros((len(classes), data.items))
    totals_M = np.zeros(len(classes))
    # A total is over all events, so only the levels of users are compared.
    of_users = [tuple(part for part in one if is_of_users(tree.levels[part[0]])) for one in classes]

    interactions = 0
    for group in data.row_groups:
        if interactions >= _MOST_INTERACTIONS:
            log.info("popularity is counted in the first %s interactions", f"{interactions:,}")
            break
        targets = _training_part(tree, data, group, training_ends)
        interactions += len(targets.item_M)
        item_M = targets.item_M.numpy()
        inside = _Members(tree, targets)
        for number, one in enumerate(classes):
            is_in_M = inside.all_of(one)
            counts_MI[number] += np.bincount(item_M[is_in_M], minlength=data.items)
            totals_M[number] += inside.all_of(of_users[number]).sum()
    return counts_MI, totals_M


def _training_part(
    tree: PriorTree, data: PreparedData, group: RowGroup, training_ends: np.ndarray
) -> Targets:
    """Returns the training interactions of the users of a row group."""
    columns = ["events"] if "events" in tree.needs else []
    users = data.read_users(group, columns)
    length_U = users.lengths
    user_N = np.repeat(np.arange(group.users), length_U)
    place_N = np.arange(len(user_N)) - np.repeat(users.starts[:-1], length_U)
    trained_N = place_N < training_ends[group.first_user :][user_N]
    item_M = torch.from_numpy(users.items[trained_N])
    return Targets(
        item_M=item_M,
        offset_M=torch.ones_like(item_M),
        event_M=torch.from_numpy(users.columns["events"][trained_N]) if columns else None,
        user_M=torch.from_numpy(user_N[trained_N] + group.first_user),
    )


class _Members:
    """Which of some interactions belong to groups of levels of users and of events."""

    def __init__(self, tree: PriorTree, targets: Targets) -> None:
        self._tree = tree
        self._targets = targets
        self._pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def all_of(self, groups: Iterable[tuple[int, int]]) -> np.ndarray:
        """Returns bool [M]: whether an interaction belongs to all of some groups."""
        is_in_M = np.ones(len(self._targets.item_M), bool)
        for level, group in groups:
            if level not in self._pairs:
                index, of_index = self._tree.levels[level].members(self._targets)  # type: ignore[operator]
                self._pairs[level] = (index.numpy(), of_index.numpy())
            index, of_index = self._pairs[level]
            of_group = np.zeros(len(is_in_M), bool)
            of_group[index[of_index == group]] = True
            is_in_M &= of_group
        return is_in_M
