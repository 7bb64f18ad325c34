"""Makes histories of users with mixed interests.

The event type and the source of each interaction are drawn independently of all other interactions.
The source then chooses a pool of items: a long-term interest by the user's weights at this step, a
topic of the session, the favourites of the event type or of the user's group, or a community of the
user. The item is drawn from this pool by popularity, among the items that the user has not seen.

As in the other world (`synthetic/histories.py`), a user's interactions depend only on the
catalogue, the settings, the seed and the user, and a shorter history is the beginning of a longer
one.

Shapes: U users, S sessions, K interests of a user at most, R rows of all users.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.synthetic.mixed.mix import Mix, Source
from torchrec_priors.synthetic.mixed.structure import Structure
from torchrec_priors.synthetic.mixed.tastes import Tastes
from torchrec_priors.synthetic.mixed.unseen import draw_unseen
from torchrec_priors.synthetic.randomness import Stream, uniform, user_keys
from torchrec_priors.synthetic.rows import Rows, times

# Shares of the event types. They are more even than MerRec's, so that a log of a few users has
# enough interactions of each type to learn its favourites.
EVENT_SHARES = (0.60, 0.16, 0.10, 0.06, 0.05, 0.03)
SESSION_LENGTH = 12.0  # interactions in a session, on average


@dataclass(frozen=True)
class MixedHistories:
    """The interactions of some users, and what drew them.

    Attributes:
        users: The numbers of the users, from 1, [U].
        lengths: The number of interactions of each user, [U].
        tastes: The tastes of the users.
        position: The position of each row's item in the catalogue, [R].
        event: The index into EVENTS of each row, [R].
        time: The time of each row in ms since 1970, strictly rising for each user, [R].
        session: The number of each row's session, from 0 for each user, [R].
        topic_R2: The two leaves that the row's session is about.
        topic_share: The weight of the session's first topic, at least .5, [R].
        source: The source that drew each row, [R].
        pool: The number of the pool from which each row's item was drawn, [R].
    """

    users: np.ndarray
    lengths: np.ndarray
    tastes: Tastes
    position: np.ndarray
    event: np.ndarray
    time: np.ndarray
    session: np.ndarray
    topic_R2: np.ndarray
    topic_share: np.ndarray
    source: np.ndarray
    pool: np.ndarray

    @property
    def spending(self) -> np.ndarray:
        """[U]: the index into SPENDING of each user, which is the user's group."""
        return self.tastes.group


def make_mixed(
    structure: Structure, mix: Mix, seed: int, users: np.ndarray, lengths: np.ndarray
) -> MixedHistories:
    """Makes the first interactions of some users.

    Args:
        structure: What is planted in the catalogue.
        mix: The settings.
        seed: The seed of all draws.
        users: The numbers of the users.
        lengths: The number of interactions of each user.
    """
    rows = Rows(user_keys(seed, users), lengths, SESSION_LENGTH)
    tastes = Tastes(structure, rows.keys, mix.drift)
    event = _chosen(EVENT_SHARES, rows.uniform(Stream.event))
    source = _chosen(mix.shares(), rows.uniform(Stream.source))
    topic_S2, share_S = _topics(structure, rows)

    pool = np.full(len(source), structure.whole)
    row = np.flatnonzero(source == Source.long_term)
    pool[row] = _interest(tastes, rows, row)
    row = np.flatnonzero(source == Source.session)
    second = rows.uniform(Stream.topic_choice)[row] >= share_S[rows.session[row]]
    pool[row] = topic_S2[rows.session[row], second.astype(np.int64)]
    row = np.flatnonzero(source == Source.event)
    pool[row] = structure.events + event[row]
    row = np.flatnonzero(source == Source.community)
    second = rows.uniform(Stream.community_choice)[row] >= tastes.share[rows.user[row]]
    pool[row] = structure.communities + tastes.community_U2[rows.user[row], second.astype(np.int64)]
    row = np.flatnonzero(source == Source.group)
    pool[row] = structure.groups + tastes.group[rows.user[row]]

    drawn = draw_unseen(structure.pools, structure.whole, rows, pool)
    return MixedHistories(
        users=users,
        lengths=lengths,
        tastes=tastes,
        position=drawn.position,
        event=event.astype(np.int8),
        time=times(rows),
        session=rows.session - rows.session[rows.start][rows.user],
        topic_R2=topic_S2[rows.session],
        topic_share=share_S[rows.session],
        # An item that was drawn from the whole catalogue instead is not from the pool.
        source=np.where(drawn.gave_up, int(Source.popular), source).astype(np.int8),
        pool=np.where(drawn.gave_up, structure.whole, pool),
    )


def _chosen(shares: tuple[float, ...] | list[float], at: np.ndarray) -> np.ndarray:
    """Returns indices that are distributed as `shares`, one for each number in [0, 1)."""
    bounds = np.cumsum(shares)[:-1] / np.sum(shares)
    return np.searchsorted(bounds, at, side="right")


def _interest(tastes: Tastes, rows: Rows, row: np.ndarray) -> np.ndarray:
    """Returns the leaf of one of the user's interests for each row, by their weights."""
    user = rows.user[row]
    weight_RK = tastes.weights(user, rows.step[row])
    at = uniform(rows.key[row], Stream.interest_choice, rows.step[row])
    number = (np.cumsum(weight_RK, axis=1) <= at[:, None]).sum(axis=1)

    # Because of rounding, the sum of the weights may be just below 1.
    number = np.minimum(number, tastes.interests[user] - 1)
    leaf: np.ndarray = tastes.leaf_UK[user, number]
    return leaf


def _topics(structure: Structure, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two topics of each session, [S, 2], and the weight of the first one, [S].

    A topic is the leaf of an item drawn by popularity, so the user's interests do not matter.
    """
    catalogue = structure.catalogue
    keys = rows.key[rows.opening]
    step = rows.step[rows.opening]
    items = len(catalogue.leaf)

    # `2 * step` and `2 * step + 1` are counters that no other session of the user has.
    topics = [
        catalogue.leaf[catalogue.pick(0, items, uniform(keys, Stream.topic, 2 * step + number))]
        for number in range(2)
    ]
    share = 0.5 + 0.5 * uniform(keys, Stream.topic_share, step)
    return np.stack(topics, axis=1), share
