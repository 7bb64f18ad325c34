"""The metrics of each individual user, and the groups that the users belong to.

Shapes: U users that have targets, B users of a part of a file, M metrics (`COMPARED`), G groups of
the category prior. In `_by_group`, M stands for the distinct targets of all users instead.
"""

import logging
from dataclasses import dataclass, field

import numpy as np

from torchrec_priors.data.histories import Split, history_batches, users_of
from torchrec_priors.experiments.per_user import CUTOFF, PerUserReader
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import GAIN, IDEAL, Ranked
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.report.result import Result
from torchrec_priors.report.sections import Row, Section

log = logging.getLogger(__name__)

_USERS = 4096  # in a batch that is read


@dataclass(frozen=True)
class People:
    """The users of a split, in file order.

    Attributes:
        newcomer_U: bool, whether the user has a target with a category that never occurs in the
            user's whole history.
        groups: prior of users -> group -> bool [U], whether the user is in the group. The largest
            group is first.
    """

    newcomer_U: np.ndarray
    groups: dict[str, dict[str, np.ndarray]]

    def __len__(self) -> int:
        return len(self.newcomer_U)

    @classmethod
    def of(cls, data: PreparedData, split: Split, category: Categories) -> "People":
        """Reads the users who have targets in a split."""
        # Categories are new if the whole history lacks them, not only the context that a model
        # reads.
        newcomers = [
            category.new_to(users)
            for users in history_batches(data, split, context=1, batch=_USERS)
        ]
        number_U = np.flatnonzero(users_of(data, split))
        groups = {
            prior.name: _members(Categories.of_prior(data, prior.name), number_U)
            for prior in data.manifest.priors
            if prior.kind == "user"
        }
        return cls(np.concatenate(newcomers), groups)


@dataclass
class PerUser:
    """The metrics of each user, for every row.

    Attributes:
        values: label -> seed -> float64 [U, M], the metrics. The result of a plain baseline counts
            for all seeds.
        groups: label -> seed -> float64 [U, G], the ndcg of the user's targets in each group of the
            category prior; NaN if the user has no target in the group.
        missing: label -> seed -> the reason why the predictions could not be read.
    """

    people: People
    category: Categories
    values: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    groups: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    missing: dict[str, dict[int, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, section: Section) -> "PerUser | None":
        """Reads the predictions of a section.

        Returns:
            the metrics; None if the data set does not exist any more.
        """
        if section.data is None:
            return None
        reader = PerUserReader.of(section.data)
        people = People.of(section.data, section.split, reader.category)
        per_user = cls(people, reader.category)
        for row in section.rows:
            for result in row.results:
                per_user._read(reader, row, result)

        # No seed changes a plain baseline: it is compared with every training of the others.
        seeds = {result.seed for row in section.rows for result in row.results}
        for row in section.rows:
            if row.deterministic and row.label in per_user.values:
                for by_seed in (per_user.values[row.label], per_user.groups[row.label]):
                    by_seed.update(dict.fromkeys(seeds, next(iter(by_seed.values()))))
        return per_user

    def _read(self, reader: PerUserReader, row: Row, result: Result) -> None:
        """Reads one evaluation, or notes why it cannot be read."""
        # One pass over the file gives the metrics of users and their ndcg by group of items.
        by_group: list[np.ndarray] = []
        try:
            values_UM = reader.read(
                result.predictions,
                result.metrics,
                lambda ranked: by_group.append(_by_group(ranked, self.category)),
            )
            if len(values_UM) != len(self.people):
                raise ValueError(
                    f"{result.predictions} has {len(values_UM)} users of {len(self.people)}"
                )
        except (ValueError, OSError) as error:
            # The page is written without this evaluation's intervals.
            reason = str(error).splitlines()[0]
            log.warning(
                "'%s' is not shown by user, as it cannot be read (%s): evaluate again",
                result.predictions,
                reason,
            )
            self.missing.setdefault(row.label, {})[result.seed] = reason
            return

        self.values.setdefault(row.label, {})[result.seed] = values_UM
        self.groups.setdefault(row.label, {})[result.seed] = np.concatenate(by_group)


def _members(prior: Categories, number_U: np.ndarray) -> dict[str, np.ndarray]:
    """Returns for each group who is in it, bool [U]; the largest group is first."""
    user, group = prior.expand(number_U)
    order = np.argsort(-np.bincount(group, minlength=len(prior.groups)), kind="stable")

    members = {}
    for number in order:
        in_group_U = np.zeros(len(number_U), bool)
        in_group_U[user[group == number]] = True
        if in_group_U.any():
            members[prior.groups[number]] = in_group_U
    return members


def _by_group(ranked: Ranked, category: Categories) -> np.ndarray:
    """Computes each user's ndcg in each group, counting only the targets in that group.

    Returns:
        float64 [B, G], with NaN where a user has no target in the group.
    """
    shape = (len(ranked.m_B), len(category.groups))
    cells = shape[0] * shape[1]

    # A pair is a target and a group that contains it. Pairs are summed by cell of [B, G].
    pair, group = category.expand(ranked.target_M)
    cell = ranked.user_M[pair] * shape[1] + group
    rank = ranked.rank_M[pair]
    m_BG = np.bincount(cell, minlength=cells).reshape(shape)
    in_list = rank < CUTOFF
    gain_BG = np.bincount(cell[in_list], GAIN[rank[in_list]], cells).reshape(shape)

    ndcg_BG = np.full(shape, np.nan)
    return np.divide(gain_BG, IDEAL[np.minimum(CUTOFF, m_BG)], out=ndcg_BG, where=m_BG > 0)
