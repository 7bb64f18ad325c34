"""The distribution of a user's next interactions, as the generator has it.

A prediction is made before the last interactions of each user, the targets. It is an expected
number of draws from each pool, from which the distribution over items follows.

Shapes: U users, I items, P pools.
"""

from collections.abc import Callable, Collection

import numpy as np

from torchrec_priors.synthetic.mixed.histories import (
    EVENT_SHARES,
    SESSION_LENGTH,
    MixedHistories,
)
from torchrec_priors.synthetic.mixed.mix import Mix, Source
from torchrec_priors.synthetic.mixed.pools import Pools
from torchrec_priors.synthetic.mixed.structure import Structure
from torchrec_priors.synthetic.mixed.unseen import TURNS


class Expected:
    """The expected draws of some users after the beginning of their histories.

    Args:
        structure: What is planted in the catalogue.
        mix: The settings.
        made: The complete histories.
        user: The indices of the users, [U].
        targets: The number of each user's last interactions that are predicted. A user has more
            interactions than this.
    """

    def __init__(
        self,
        structure: Structure,
        mix: Mix,
        made: MixedHistories,
        user: np.ndarray,
        targets: int,
    ) -> None:
        self.structure = structure
        self.mix = mix
        self.made = made
        self.user = user
        self.targets = targets
        self.begin = (np.cumsum(made.lengths) - made.lengths)[user]
        self.cut = made.lengths[user] - targets

    def draws(self, known: Collection[Source], steps: int) -> np.ndarray:
        """[U, P]: the expected number of draws from each pool in the first steps after the cut.

        Args:
            known: The sources whose state is known: of `long_term` the weights of interests, of
                `session` the topics of the session in which the history ends, of `event` the types
                of the next events, of `community` and `group` those of the user. Of other sources,
                only the average over users is known.
            steps: The number of steps, at most the number of targets.
        """
        parts: dict[Source, Callable[[int], np.ndarray]] = {
            Source.popular: self._popular,
            Source.long_term: self._long_term,
            Source.session: self._session,
            Source.event: self._event,
            Source.community: self._community,
            Source.group: self._group,
        }
        draws = self._none()
        for share, (source, part) in zip(self.mix.shares(), parts.items(), strict=True):
            drawn = part(steps)
            if source not in known and source is not Source.popular:
                drawn = self._unknown(source, drawn, steps)
            draws += share * drawn
        return draws

    def _none(self) -> np.ndarray:
        return np.zeros((len(self.user), len(self.structure.pools)))

    def _popular(self, steps: int) -> np.ndarray:
        draws = self._none()
        draws[:, self.structure.whole] = steps
        return draws

    def _long_term(self, steps: int) -> np.ndarray:
        draws = self._none()
        tastes = self.made.tastes
        every = np.arange(len(self.user))[:, None]
        for step in range(steps):
            # Entries of no interest have the weight 0.
            weight_UK = tastes.weights(self.user, self.cut + step)
            np.add.at(draws, (every, tastes.leaf_UK[self.user]), weight_UK)
        return draws

    def _session(self, steps: int) -> np.ndarray:
        draws = self._none()
        every = np.arange(len(self.user))
        last = self.begin + self.cut - 1
        first = self.made.topic_share[last]
        goes_on = (1 - 1 / SESSION_LENGTH) ** (1 + np.arange(steps))

        np.add.at(draws, (every, self.made.topic_R2[last, 0]), goes_on.sum() * first)
        np.add.at(draws, (every, self.made.topic_R2[last, 1]), goes_on.sum() * (1 - first))
        return draws + (steps - goes_on.sum()) * self._any_topic()

    def _event(self, steps: int) -> np.ndarray:
        draws = self._none()
        every = np.arange(len(self.user))
        for step in range(steps):
            event = self.made.event[self.begin + self.cut + step].astype(np.int64)
            np.add.at(draws, (every, self.structure.events + event), 1.0)
        return draws

    def _community(self, steps: int) -> np.ndarray:
        draws = self._none()
        every = np.arange(len(self.user))
        tastes = self.made.tastes
        pool_U2 = self.structure.communities + tastes.community_U2[self.user]
        draws[every, pool_U2[:, 0]] = steps * tastes.share[self.user]
        draws[every, pool_U2[:, 1]] = steps * (1 - tastes.share[self.user])
        return draws

    def _group(self, steps: int) -> np.ndarray:
        draws = self._none()
        pool = self.structure.groups + self.made.tastes.group[self.user]
        draws[np.arange(len(self.user)), pool] = steps
        return draws

    def _any_topic(self) -> np.ndarray:
        """[P]: the distribution of the topics of a session that has not begun."""
        chance = np.zeros(len(self.structure.pools))
        leaves = len(self.structure.catalogue.tree)
        chance[:leaves] = self.structure.pools.mass[:leaves]
        return chance

    def _unknown(self, source: Source, drawn: np.ndarray, steps: int) -> np.ndarray:
        """[P]: the expected draws of a source if its state is unknown."""
        if source is Source.session:
            return steps * self._any_topic()
        if source is Source.event:
            chance = np.zeros(len(self.structure.pools))
            events = self.structure.events
            chance[events : events + len(EVENT_SHARES)] = EVENT_SHARES
            return steps * chance
        average: np.ndarray = drawn.mean(axis=0)
        return average


def over_items(pools: Pools, whole: int, draws: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """[I]: the expected number of draws of each item, which is 0 for seen items.

    For one step this is the exact probability of each item that the user has not seen: a pool
    gives an unseen item by popularity, unless all of its `TURNS` draws are seen items (then the
    whole catalogue does, in as many turns). For more steps, it ignores that the items of the steps
    differ from each other.

    Args:
        pools: The pools.
        whole: The number of the pool with the whole catalogue.
        draws: The expected number of draws from each pool, [P].
        seen: Whether the user has seen each item, [I].
    """
    share = pools.share(seen)
    fails = share**TURNS
    again = float((draws * fails).sum())

    # A pool of which everything is seen gives nothing. Because of rounding its share may be just
    # below 1, but then no item of it is left to have a probability.
    left = np.maximum(1 - share, 1e-12)
    amount = draws * (1 - fails) / (left * pools.mass)
    amount[whole] += again * (1 - fails[whole]) / (left[whole] * pools.mass[whole])

    expected = pools.spread(amount)
    expected[seen] = 0.0
    return expected
