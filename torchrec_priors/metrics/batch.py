"""The batches of evaluated users that metrics are updated with.

Shapes: M distinct (user, target) pairs.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.per_user import Ranked


@dataclass(frozen=True)
class Reachable:
    """Whether each distinct target of a batch can be found at all, and if not, for what reason.

    Attributes:
        found_M: bool, whether the target can be found.
        seen_M: bool, whether the target is left out because the user has seen it before.
        row_M: bool, whether the target may be recommended and the user has a known history.
        head_M: bool, whether any head may retrieve the target.
    """

    found_M: np.ndarray
    seen_M: np.ndarray
    row_M: np.ndarray
    head_M: np.ndarray


@dataclass(frozen=True)
class RankedBatch:
    """A batch of at least one user, with the lists that the model recommends.

    Attributes:
        users: the users' histories and targets.
        ranked: the users' lists, compared with their targets.
        event_given: the same for a second list of each user, which is found with only the heads for
            the events of the user's targets. None if the tree has no level of events.
        reachable: the targets that can be found at all; None if they are not counted.
    """

    users: Histories
    ranked: Ranked
    event_given: Ranked | None = None
    reachable: Reachable | None = None
