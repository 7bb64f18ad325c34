"""A batch of evaluated users, as every metric sees it.

Shapes: M distinct (user, target) pairs.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.per_user import Ranked


@dataclass(frozen=True)
class Reachable:
    """Which distinct targets of a batch could be found at all, and what is against the others.

    Attributes:
        found_M: bool, targets that can be found.
        seen_M: bool, targets that are left out because the user has seen them before.
        row_M: bool, targets that have a row, of users with a history that has one.
        head_M: bool, targets that are among the items of a head.
    """

    found_M: np.ndarray
    seen_M: np.ndarray
    row_M: np.ndarray
    head_M: np.ndarray


@dataclass(frozen=True)
class RankedBatch:
    """Users with the lists that were found for them; there is at least one user.

    Attributes:
        users: their histories and targets.
        ranked: their lists next to their targets.
        event_given: the lists found by the heads of their targets' events; None if the tree has no
            level of events.
        reachable: which targets could be found at all; None if that is not counted.
    """

    users: Histories
    ranked: Ranked
    event_given: Ranked | None = None
    reachable: Reachable | None = None
