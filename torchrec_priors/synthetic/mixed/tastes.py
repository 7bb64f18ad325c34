"""What is planted in users: their interests and the weights of these, communities, and groups.

Shapes: U users, K interests of a user at most, R rows.
"""

import numpy as np

from torchrec_priors.synthetic.catalogue import Catalogue
from torchrec_priors.synthetic.histories import SPENDING_SHARES
from torchrec_priors.synthetic.mixed.structure import Structure
from torchrec_priors.synthetic.randomness import Stream, uniform

MOST_INTERESTS = 6
_FEWEST_INTERESTS = 3
# The weights of a user's interests are the softmax of normally distributed numbers with this
# standard deviation, plus a sine with this range of periods, in interactions.
_SPREAD = 0.7
_PERIODS = (100.0, 400.0)


class Tastes:
    """The tastes of some users.

    Each interest is a leaf category. The interests of a user are in different level-1 categories.

    Attributes:
        keys: The random key of each user, [U].
        interests: The number of interests of each user, 3 to 6, [U].
        leaf_UK: The leaf of each interest; entries from `interests` on have no meaning.
        group: The index into SPENDING of each user, [U].
        community_U2: The user's two communities, which differ.
        share: The weight of the user's first community, at least .5, [U].
    """

    def __init__(self, structure: Structure, keys: np.ndarray, drift: float) -> None:
        catalogue = structure.catalogue
        self.keys = keys
        self.drift = drift

        number = uniform(keys, Stream.slots) * (MOST_INTERESTS + 1 - _FEWEST_INTERESTS)
        self.interests = _FEWEST_INTERESTS + number.astype(np.int64)
        self.leaf_UK = _leaves(catalogue, keys)

        bounds = np.cumsum(SPENDING_SHARES)[:-1]
        self.group = np.searchsorted(bounds, uniform(keys, Stream.spending), side="right")

        # The second community is one of the others.
        communities = structure.events - structure.communities
        first = (uniform(keys, Stream.community, 0) * communities).astype(np.int64)
        further = 1 + (uniform(keys, Stream.community, 1) * (communities - 1)).astype(np.int64)
        self.community_U2 = np.stack([first, (first + further) % communities], axis=1)
        self.share = 0.5 + 0.5 * uniform(keys, Stream.community_share)

        # Everything about the weights of interests is drawn here, and `weights` has no draws.
        each = [self._of_each(stream) for stream in _OF_EACH]
        radius_UK, angle_UK, period_UK, self._phase_UK = each
        low, high = _PERIODS
        self._logit_UK = _SPREAD * np.sqrt(-2 * np.log1p(-radius_UK)) * np.cos(2 * np.pi * angle_UK)
        self._period_UK = low + (high - low) * period_UK

    def weights(self, user: np.ndarray, step: np.ndarray) -> np.ndarray:
        """[R, K]: the weights of a user's interests at a step; the sum of each row is 1.

        Args:
            user: The index of each row's user, [R].
            step: The number of each row among the rows of its user, [R].
        """
        turn = step[:, None] / self._period_UK[user] + self._phase_UK[user]
        logit = self._logit_UK[user] + self.drift * np.sin(2 * np.pi * turn)
        held = np.arange(MOST_INTERESTS) < self.interests[user, None]

        weight = np.where(held, np.exp(logit), 0.0)
        normalized: np.ndarray = weight / weight.sum(axis=1, keepdims=True)
        return normalized

    def _of_each(self, stream: Stream) -> np.ndarray:
        """[U, K]: a number in [0, 1) for each interest."""
        drawn = [uniform(self.keys, stream, number) for number in range(MOST_INTERESTS)]
        return np.stack(drawn, axis=1)


_OF_EACH = (
    Stream.interest_logit,
    Stream.interest_angle,
    Stream.interest_period,
    Stream.interest_phase,
)


def _leaves(catalogue: Catalogue, keys: np.ndarray) -> np.ndarray:
    """[U, K]: leaves in different level-1 categories, popular categories and leaves more often.

    The largest of log(weight) plus Gumbel noise are a draw without replacement.
    """
    tops = len(catalogue.top_bounds) - 1
    mass = np.diff(catalogue.cumulative[catalogue.top_bounds])
    drawn = [uniform(keys, Stream.interest_top, number) for number in range(tops)]
    # A number of 0 has the noise -log(inf), which is never among the largest.
    with np.errstate(divide="ignore"):
        noise = -np.log(-np.log(np.stack(drawn, axis=1)))
    top_UK = np.argsort(-(np.log(mass) + noise), axis=1, kind="stable")[:, :MOST_INTERESTS]

    leaf = [
        catalogue.leaf[
            catalogue.pick(
                catalogue.top_bounds[top_UK[:, number]],
                catalogue.top_bounds[top_UK[:, number] + 1],
                uniform(keys, Stream.interest_leaf, number),
            )
        ]
        for number in range(MOST_INTERESTS)
    ]
    return np.stack(leaf, axis=1)
