"""Makes synthetic histories, with interests that change, sessions, and events that follow views.

A user has a few long-term interests at a time. An interest is a leaf category, a price band and a
cell (see `catalogue.py`). After about a hundred interactions it is replaced by another interest,
usually in one of the level-1 categories of the user's taste. A session is about one of these
interests, or sometimes about a random leaf. Most of its items are in a single cell.

Histories of many users are drawn at once, with counter-based random numbers (see `randomness.py`).
So a user's interactions depend only on the catalogue, the seed and the user. A shorter history is
the beginning of a longer one.

Shapes: U users, S sessions and R rows of all users, one user after another.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.synthetic.catalogue import BANDS, Catalogue
from torchrec_priors.synthetic.randomness import Stream, counter_of, uniform, user_keys
from torchrec_priors.synthetic.rows import Rows, times
from torchrec_priors.synthetic.users import Lengths

EVENTS = ("item_view", "item_like", "item_add_to_cart", "offer_make", "buy_start", "buy_complete")
# Shares of the events in MerRec's log.
SHARES = (0.820, 0.163, 0.0123, 0.0035, 0.00065, 0.00034)
# Indices into EVENTS.
_VIEW = 0
_START = 4
_COMPLETE = 5

SPENDING = ("bargain hunters", "mid-range shoppers", "premium shoppers")
SPENDING_SHARES = (0.4, 0.4, 0.2)

LENGTHS = Lengths(median=60.0, spread=0.75, shortest=5, longest=500)  # about 80 on average
_LIVES = (60.0, 200.0)  # the minimum and maximum number of interactions that an interest lasts
_SESSION_LENGTH = 2.5  # interactions in a session, on average
_CHANCE_SESSIONS = 0.1  # share of sessions in a random leaf
# Probabilities that an interest is in the first category of the user's taste, and that it is in the
# first or the second.
_TASTE = (0.35, 0.6)
_OWN_BAND = 0.85  # probability that an interest is in the user's price band
# Probability that a session is in the cell of its interest. Otherwise, its cell is drawn from the
# same leaf and band.
_HOME_CELL = 0.8
_IN_CELL = 0.85  # probability that a view is in its session's cell; otherwise it is in the leaf
_REDRAWS = 4  # how often a view is drawn again if the user has already seen its item
# Probability that an event after a view is on the item viewed last, not on an earlier one.
_STEP_BACK = 0.6
_BUYS_COMPLETED = SHARES[_COMPLETE] / SHARES[_START]


@dataclass(frozen=True)
class MadeUpHistories:
    """The interactions and planted interests of some users.

    Attributes:
        users: The numbers of the users, from 1.
        spending: The index into SPENDING of each user.
        lengths: The number of interactions of each user.
        position: The position of each row's item in the catalogue, [R].
        event: The index into EVENTS of each row, [R].
        time: The time of each row in ms since 1970, strictly rising for each user, [R].
        interest_user, interest_leaf: The user and the leaf of each planted interest, in the order
            of users.
        interest_from, interest_until: The times of the first and the last interaction during each
            interest.
    """

    users: np.ndarray
    spending: np.ndarray
    lengths: np.ndarray
    position: np.ndarray
    event: np.ndarray
    time: np.ndarray
    interest_user: np.ndarray
    interest_leaf: np.ndarray
    interest_from: np.ndarray
    interest_until: np.ndarray


def make_histories(
    catalogue: Catalogue, seed: int, users: np.ndarray, lengths: np.ndarray
) -> MadeUpHistories:
    """Makes the first interactions of some users.

    Args:
        catalogue: The catalogue.
        seed: The seed of all draws.
        users: The numbers of the users.
        lengths: The number of interactions of each user.
    """
    # Each part draws from streams of its own, so the draws do not depend on the order of the calls.
    rows = Rows(user_keys(seed, users), lengths, _SESSION_LENGTH)
    interests = _Interests(catalogue, rows)
    event = _events(rows)
    position = _views(catalogue, rows, interests, event == _VIEW)
    position = _follow_ups(rows, event, position)
    time = times(rows)

    user, leaf, first, last = interests.periods()
    return MadeUpHistories(
        users=users,
        spending=interests.band_U,
        lengths=lengths,
        position=position,
        event=event,
        time=time,
        interest_user=users[user],
        interest_leaf=leaf,
        interest_from=time[rows.start[user] + first],
        interest_until=time[rows.start[user] + last],
    )


class _Interests:
    """The interests of each user.

    A user has a few slots, and each slot has one interest at a time. At each step, the number of
    the slot's interest is floor(step / life + phase), with the life and phase of `_life`.

    Attributes:
        slots_U: The number of slots of each user, 3 to 5.
        band_U: The price band of each user.
        taste_2U: The two level-1 categories of each user's taste.
    """

    def __init__(self, catalogue: Catalogue, rows: Rows) -> None:
        self.catalogue = catalogue
        self.rows = rows
        self.keys = rows.keys
        self.slots_U = 3 + (uniform(self.keys, Stream.slots) * 3).astype(np.int64)

        # The index into SPENDING is also the user's price band.
        bounds = np.cumsum(SPENDING_SHARES)[:-1]
        self.band_U = np.searchsorted(bounds, uniform(self.keys, Stream.spending), side="right")

        # Popular categories are in the taste of more users. The two categories may be the same.
        items = len(catalogue.leaf)
        taste = [
            catalogue.pick(0, items, uniform(self.keys, Stream.taste, number))
            for number in range(2)
        ]
        self.taste_2U = catalogue.top_of_leaf[catalogue.leaf[np.stack(taste)]]

    def at(self, user: np.ndarray, slot: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Returns the number of a slot's interest at a step."""
        life, phase = self._life(user, slot)
        return (step / life + phase).astype(np.int64)

    def leaf(self, user: np.ndarray, slot: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Returns the leaf category of an interest."""
        keys = self.keys[user]
        counter = counter_of(slot, number)
        catalogue = self.catalogue

        # An interest is in one of the two categories of the taste, or anywhere in the catalogue.
        scope = uniform(keys, Stream.interest_scope, counter)
        top = np.where(scope < _TASTE[0], self.taste_2U[0, user], self.taste_2U[1, user])
        anywhere = scope >= _TASTE[1]

        first = np.where(anywhere, 0, catalogue.top_bounds[top])
        last = np.where(anywhere, len(catalogue.leaf), catalogue.top_bounds[top + 1])
        return catalogue.leaf[
            catalogue.pick(first, last, uniform(keys, Stream.interest_leaf, counter))
        ]

    def periods(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns the user, leaf, first step and last step of each interest in a history."""
        user = np.repeat(np.arange(len(self.keys)), self.slots_U)
        slot = _within(self.slots_U)
        lengths = self.rows.lengths[user]

        # The number of interests that each slot has had by the last step.
        counts = self.at(user, slot, lengths - 1) + 1
        user = np.repeat(user, counts)
        slot = np.repeat(slot, counts)
        lengths = np.repeat(lengths, counts)
        number = _within(counts)

        # An interest covers the steps at which step / life + phase is in [number, number + 1).
        life, phase = self._life(user, slot)
        first = np.maximum(np.ceil((number - phase) * life), 0).astype(np.int64)
        last = np.minimum(np.ceil((number + 1 - phase) * life).astype(np.int64), lengths) - 1
        has_steps = first <= last

        leaf = self.leaf(user, slot, number)
        return user[has_steps], leaf[has_steps], first[has_steps], last[has_steps]

    def _life(self, user: np.ndarray, slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the life and the phase of a slot.

        The life is the number of interactions that an interest lasts. The phase is the share of the
        first interest's life that is over before the user's first interaction.
        """
        low, high = _LIVES
        life = low + (high - low) * uniform(self.keys[user], Stream.life, slot)
        return life, uniform(self.keys[user], Stream.phase, slot)


def _views(
    catalogue: Catalogue, rows: Rows, interests: _Interests, is_view: np.ndarray
) -> np.ndarray:
    """Returns the position of the item of each view; 0 for other rows."""
    leaf_S, cell_S = _sessions(catalogue, rows, interests)
    view = np.flatnonzero(is_view)
    session = rows.session[view]
    user = rows.user[view]
    key = rows.key[view]
    step = rows.step[view]
    leaf = leaf_S[session]
    cell = cell_S[session]

    # A view is in the session's cell, or anywhere in the session's leaf.
    close = uniform(key, Stream.scope, step) < _IN_CELL
    first = np.where(close, catalogue.cell_bounds[cell], catalogue.leaf_bounds[leaf])
    last = np.where(close, catalogue.cell_bounds[cell + 1], catalogue.leaf_bounds[leaf + 1])
    item = catalogue.pick(first, last, uniform(key, Stream.item, counter_of(step, 0)))

    # Items that the user has seen are drawn again, from a range that widens.
    for turn in range(1, _REDRAWS + 1):
        again = _repeats(user * len(catalogue.leaf) + item)
        at = uniform(key[again], Stream.item, counter_of(step[again], turn))
        low = catalogue.leaf_bounds[leaf[again]]
        high = catalogue.leaf_bounds[leaf[again] + 1]

        # In the first turn, the range is the same as before. From the second turn on, it is the
        # leaf.
        if turn == 2:
            first[again] = low
            last[again] = high

        # In the last turn, popularity is ignored, as the user has probably seen the popular items.
        if turn < _REDRAWS:
            item[again] = catalogue.pick(first[again], last[again], at)
        else:
            item[again] = low + (at * (high - low)).astype(np.int64)

    position = np.zeros(len(rows.user), np.int64)
    position[view] = item
    return position


def _sessions(
    catalogue: Catalogue, rows: Rows, interests: _Interests
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the leaf and the cell of each session."""
    opening = rows.opening
    user = rows.user[opening]
    step = rows.step[opening]
    keys = rows.key[opening]

    # The power makes sessions of the first slots more frequent.
    slots = interests.slots_U[user]
    slot = (uniform(keys, Stream.session_interest, step) ** 1.2 * slots).astype(np.int64)
    number = interests.at(user, slot, step)
    counter = counter_of(slot, number)
    leaf = interests.leaf(user, slot, number)

    # Some sessions are in a random leaf.
    chance = uniform(keys, Stream.session_kind, step) < _CHANCE_SESSIONS
    chance_leaf = catalogue.leaf[
        catalogue.pick(0, len(catalogue.leaf), uniform(keys, Stream.session_leaf, step))
    ]
    leaf = np.where(chance, chance_leaf, leaf)

    # Usually the session is in the user's price band, if the leaf has items in this band.
    first = catalogue.leaf_bounds[leaf]
    last = catalogue.leaf_bounds[leaf + 1]
    band = leaf * len(BANDS) + interests.band_U[user]
    in_band = (uniform(keys, Stream.interest_band, counter) < _OWN_BAND) & (
        catalogue.band_bounds[band] < catalogue.band_bounds[band + 1]
    )
    first = np.where(in_band, catalogue.band_bounds[band], first)
    last = np.where(in_band, catalogue.band_bounds[band + 1], last)

    # Usually the cell is drawn with the counter of the interest, so all its sessions have the same
    # cell. Otherwise it is drawn for this session.
    home = (uniform(keys, Stream.session_drift, step) < _HOME_CELL) & ~chance
    at = uniform(keys, Stream.interest_cell, counter)
    at = np.where(home, at, uniform(keys, Stream.session_cell, step))
    return leaf, catalogue.cell_of[catalogue.pick(first, last, at)]


def _events(rows: Rows) -> np.ndarray:
    """Returns the event of each row.

    The first event of a user is a view. Some purchases are completed, each in the row right after
    the one in which it was begun.
    """
    # Completions are not drawn with the other events, as they follow the beginnings of purchases.
    bounds = np.cumsum(SHARES[:_COMPLETE]) / (sum(SHARES) - SHARES[_COMPLETE])
    event = np.searchsorted(bounds[:-1], rows.uniform(Stream.event), side="right").astype(np.int8)
    event[rows.step == 0] = _VIEW

    completes = (event == _START) & (rows.uniform(Stream.complete) < _BUYS_COMPLETED)
    follows = np.zeros(len(event), bool)
    follows[1:] = completes[:-1] & (rows.step[1:] > 0)

    # No purchase begins in the row in which another one is completed.
    event[follows & (event == _START)] = _VIEW
    begun = completes & (event == _START)
    follows[1:] &= begun[:-1]
    event[follows] = _COMPLETE
    return event


def _follow_ups(rows: Rows, event: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Returns the positions of the items of all rows.

    If a row is not a view, the user has viewed its item before; usually it is the item viewed last.
    A purchase is completed with the item with which it was begun.

    Args:
        rows: The rows.
        event: The event of each row.
        position: The position of the item of each view.
    """
    is_view = event == _VIEW
    views = np.flatnonzero(is_view)
    before = np.cumsum(is_view)  # the views of all users, up to and including each row
    other = np.flatnonzero(~is_view)

    # The number of views to step back is geometric, but does not go beyond the user's first view.
    back = np.log1p(-uniform(rows.key[other], Stream.back, rows.step[other])) / np.log(
        1 - _STEP_BACK
    )
    first_view = before[rows.start[rows.user[other]]] - 1
    chosen = np.maximum(before[other] - 1 - back.astype(np.int64), first_view)
    position = position.copy()
    position[other] = position[views[chosen]]

    # The purchase was begun in the row before its completion.
    complete = np.flatnonzero(event == _COMPLETE)
    position[complete] = position[complete - 1]
    return position


def _within(counts: np.ndarray) -> np.ndarray:
    """Returns the numbers from 0 to count - 1 for each count, one after another."""
    within: np.ndarray = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return within


def _repeats(key: np.ndarray) -> np.ndarray:
    """Returns the indices at which a key occurs for the second time or later."""
    # A stable sort puts equal keys next to each other, in the order of their indices.
    order = np.argsort(key, kind="stable")
    repeated: np.ndarray = np.sort(order[1:][key[order[1:]] == key[order[:-1]]])
    return repeated
