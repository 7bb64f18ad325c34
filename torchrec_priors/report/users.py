"""Values of single users: who they are, what each row is worth to them, and for which items.

Shapes: U users that have targets, M metrics (`COMPARED`), G groups of the category prior, J categories.
"""

import logging
from dataclasses import dataclass, field

import numpy as np

from torchrec_priors.data.histories import history_batches, users_of
from torchrec_priors.experiment.per_user import CUTOFF, PerUserReader
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import GAIN, IDEAL, Ranked
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.report.runs import Result
from torchrec_priors.report.sections import Row, Section

log = logging.getLogger(__name__)

_USERS = 4096  # read at a time


@dataclass(frozen=True)
class People:
    """The users of a split, in file order.

    Attributes:
        newcomer_U: bool, who has a target one of whose categories never occurs in the whole history.
        groups: by user prior and group, largest first: who is in it, bool [U].
    """

    newcomer_U: np.ndarray
    groups: dict[str, dict[str, np.ndarray]]

    def __len__(self) -> int:
        return len(self.newcomer_U)

    @classmethod
    def of(cls, data: PreparedData, split: str, category: Categories) -> "People":
        parts = [
            category.new_to(users)
            for users in history_batches(data, split, context=1, batch=_USERS)  # type: ignore[arg-type]
        ]
        number_U = np.flatnonzero(users_of(data, split))  # type: ignore[arg-type]
        groups = {
            prior.name: _members(Categories.of_prior(data, prior.name), number_U)
            for prior in data.manifest.priors
            if prior.kind == "user"
        }
        return cls(np.concatenate(parts), groups)


@dataclass
class PerUser:
    """What rows are worth to each user.

    Attributes:
        values: float64 [U, M] of each label and seed.
        groups: float64 [U, G] likewise: ndcg of the targets in each group of the category prior; NaN without any.
        missing: why there are no values of single users, by label and seed.
    """

    people: People
    category: Categories
    values: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    groups: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    missing: dict[str, dict[int, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, section: Section) -> "PerUser | None":
        """None where the data set is not there."""
        if section.data is None:
            return None
        reader = PerUserReader.of(section.data)
        found = cls(People.of(section.data, section.split, reader.category), reader.category)
        for row in section.rows:
            for result in row.results:
                found._read(reader, row, result)
        return found

    def _read(self, reader: PerUserReader, row: Row, result: Result) -> None:
        of_groups: list[np.ndarray] = []
        try:
            values_UM = reader.read(
                result.predictions,
                result.metrics,
                lambda ranked: of_groups.append(_by_group(ranked, self.category)),
            )
            if len(values_UM) != len(self.people):
                raise ValueError(
                    f"{result.predictions} has {len(values_UM)} users of {len(self.people)}"
                )
        except (ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            log.warning(
                "'%s' is not shown by user, as it cannot be read (%s): evaluate again",
                result.predictions,
                reason,
            )
            self.missing.setdefault(row.label, {})[result.seed] = reason
            return
        self.values.setdefault(row.label, {})[result.seed] = values_UM
        self.groups.setdefault(row.label, {})[result.seed] = np.concatenate(of_groups)


def _members(prior: Categories, number_U: np.ndarray) -> dict[str, np.ndarray]:
    """Groups, largest first, with who is in them."""
    user, group = prior.expand(number_U)
    order = np.argsort(-np.bincount(group, minlength=len(prior.groups)), kind="stable")
    found = {}
    for number in order:
        inside = np.zeros(len(number_U), bool)
        inside[user[group == number]] = True
        if inside.any():
            found[prior.groups[number]] = inside
    return found


def _by_group(ranked: Ranked, category: Categories) -> np.ndarray:
    """float64 [B, G]: ndcg of the targets in each group, scored as if there were no others; NaN without any."""
    shape = (len(ranked.m_B), len(category.groups))
    pair, group = category.expand(ranked.target_M)
    cell = ranked.user_M[pair] * shape[1] + group
    rank = ranked.rank_M[pair]
    m_BG = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    inside = rank < CUTOFF
    gain_BG = np.bincount(cell[inside], GAIN[rank[inside]], m_BG.size).reshape(shape)
    return np.divide(
        gain_BG, IDEAL[np.minimum(CUTOFF, m_BG)], out=np.full(shape, np.nan), where=m_BG > 0
    )
