"""Reasons in words for the heads of a run, from its prior tree alone: the model is not loaded."""

import logging
from dataclasses import dataclass

import numpy as np

from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_tree
from torchrec_priors.priors.prior import is_of_users
from torchrec_priors.report.result import Result
from torchrec_priors.retrieval.find import REPEAT
from torchrec_priors.serving.reasons import Facts, Reasons

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadReasons:
    """The reasons of a run's heads.

    Attributes:
        reasons: writes the reasons.
        paths: the number of each head, by its name.
        items: for each head, the row ids of the items that it may retrieve.
        user_levels: the levels of users.
    """

    reasons: Reasons
    paths: dict[str, int]
    items: list[np.ndarray]
    user_levels: frozenset[int]

    @classmethod
    def of(cls, result: Result, data: PreparedData) -> "HeadReasons | None":
        """Loads the prior tree of a run.

        Returns:
            the reasons; None if the tree cannot be loaded or needs custom code, which a report does
            not execute.
        """
        config = result.run.config()
        if config.own_files():
            return None
        try:
            tree = load_tree(config.priors, data, config.model.horizon)
        except UserError as error:
            log.warning("heads of the examples have no reasons: %s", error)
            return None
        paths = {path.name: number for number, path in enumerate(tree.paths)}
        sets = tree.eligible(0, tree.items)
        levels = enumerate(tree.levels)
        user_levels = frozenset(number for number, level in levels if is_of_users(level))
        return cls(Reasons(tree), paths, [sets[number] for number in tree.item_set_K], user_levels)

    def of_head(self, head: str, users: Histories) -> str:
        """Returns why a head recommends items to one user; "" if the run has no such head.

        Args:
            head: the name of the head.
            users: the user, alone.
        """
        if head == REPEAT:
            return self.reasons.of_repeat(Facts())
        if head not in self.paths:
            return ""
        path = self.paths[head]
        inside = int(np.isin(users.seen, self.items[path]).sum())
        facts = Facts("model", len(users.seen), inside, known_levels=self.user_levels)
        return self.reasons.of_path(path, facts)
