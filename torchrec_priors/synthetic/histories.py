"""Made-up histories: drifting interests, sessions, and events that follow views, for many users at once.

A user has a few long-term interests at a time; each is a leaf category, a price band and a cell (see `catalogue`), and
is replaced by another after about a hundred interactions, mostly within the level-1 categories of the user's taste. A
session keeps to one of them, or now and then to a leaf found by chance, and stays close to one cell.

Everything is drawn by counters (see `randomness`), so that a user's interactions depend on the catalogue, the seed and
the user alone; a history that is cut is the beginning of the whole one.

Shapes: U users, R rows of all users, one after another.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.synthetic.catalogue import BANDS, Catalogue
from torchrec_priors.synthetic.randomness import Stream, uniform, user_keys
from torchrec_priors.synthetic.users import Lengths

EVENTS = ("item_view", "item_like", "item_add_to_cart", "offer_make", "buy_start", "buy_complete")
SHARES = (0.820, 0.163, 0.0123, 0.0035, 0.00065, 0.00034)  # of MerRec's log
_VIEW = 0
_START = 4
_COMPLETE = 5

SPENDING = ("bargain hunters", "mid-range shoppers", "premium shoppers")
_SPENDING_SHARES = (0.4, 0.4, 0.2)

LENGTHS = Lengths(median=60.0, spread=0.75, shortest=5, longest=500)  # about 80 on average
_LIVES = (60.0, 200.0)  # interactions that an interest lasts
_SESSION_LENGTH = 2.5  # interactions, on average
_CHANCE_SESSIONS = 0.1
_TASTE = (
    0.35,
    0.6,
)  # an interest is in the first, the first or second category of the user's taste
_OWN_BAND = 0.85  # an interest is in the user's price band
_HOME_CELL = 0.8  # a session is in its interest's cell, else elsewhere in the same leaf and band
_IN_CELL = 0.85  # a view is in its session's cell, else anywhere in the leaf
_REDRAWS = 4  # of a view whose item the user has seen
_STEP_BACK = 0.6  # a like, offer, ... is of the last item viewed, or with the rest of the probability an earlier one
_BUYS_COMPLETED = SHARES[_COMPLETE] / SHARES[_START]
_DAY = 86_400_000
_EPOCH = 1_683_000_000_000  # 2 May 2023
_SPAN = 60  # days over which users first come
# mean gaps within a session and between sessions, ms
_WITHIN = 40_000.0
_BETWEEN = 1.5 * _DAY


@dataclass(frozen=True)
class MadeUpHistories:
    """Interactions and planted interests of a range of users.

    Attributes:
        users: numbers of the users, from 1.
        spending: index into SPENDING of each user.
        lengths: interactions of each user.
        position: of each row's item in the catalogue, [R].
        event: index into EVENTS, [R].
        time: ms since 1970, rising strictly within a user, [R].
        interest_user, interest_leaf: planted interests, in the order of users.
        interest_from, interest_until: times of the first and last interaction at which an interest is held.
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
    """The first `lengths` interactions of these users."""
    rows = _Rows(user_keys(seed, users), lengths)
    interests = _Interests(catalogue, rows)
    event = _events(rows)
    position = _views(catalogue, rows, interests, event == _VIEW)
    position = _follow_ups(rows, event, position)
    time = _times(rows)
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


class _Rows:
    """The rows of some users: which user, the how-manieth of it, and its session."""

    def __init__(self, keys: np.ndarray, lengths: np.ndarray) -> None:
        self.keys = keys
        self.lengths = lengths
        self.start = np.cumsum(lengths) - lengths
        self.user = np.repeat(np.arange(len(keys)), lengths)
        self.key = keys[self.user]
        self.step = np.arange(len(self.user)) - self.start[self.user]
        self.opens = (self.uniform(Stream.session_start) < 1 / _SESSION_LENGTH) | (self.step == 0)
        self.session = np.cumsum(self.opens) - 1  # over all users
        self.opening = np.flatnonzero(self.opens)  # row at which each session begins

    def uniform(self, stream: Stream) -> np.ndarray:
        return uniform(self.key, stream, self.step)


class _Interests:
    """Every user's interests: slot i of a user holds its g-th interest while floor(step / life + phase) is g."""

    def __init__(self, catalogue: Catalogue, rows: _Rows) -> None:
        self.catalogue = catalogue
        self.rows = rows
        self.keys = rows.keys
        self.slots_U = 3 + (uniform(self.keys, Stream.slots) * 3).astype(np.int64)  # 3 to 5
        bounds = np.cumsum(_SPENDING_SHARES)[:-1]
        self.band_U = np.searchsorted(bounds, uniform(self.keys, Stream.spending), side="right")
        items = len(catalogue.leaf)
        taste = [
            catalogue.pick(0, items, uniform(self.keys, Stream.taste, number))
            for number in range(2)
        ]
        self.taste_2U = catalogue.top_of_leaf[catalogue.leaf[np.stack(taste)]]

    def _life(self, user: np.ndarray, slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(interactions that an interest in this slot lasts, how far into its first one the user begins)."""
        low, high = _LIVES
        life = low + (high - low) * uniform(self.keys[user], Stream.life, slot)
        return life, uniform(self.keys[user], Stream.phase, slot)

    def at(self, user: np.ndarray, slot: np.ndarray, step: np.ndarray) -> np.ndarray:
        """How-manieth interest of its slot is held at a step."""
        life, phase = self._life(user, slot)
        return (step / life + phase).astype(np.int64)

    def leaf(self, user: np.ndarray, slot: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Leaf category of an interest."""
        keys = self.keys[user]
        counter = _counter(slot, number)
        catalogue = self.catalogue
        scope = uniform(keys, Stream.interest_scope, counter)
        top = np.where(scope < _TASTE[0], self.taste_2U[0, user], self.taste_2U[1, user])
        anywhere = scope >= _TASTE[1]
        first = np.where(anywhere, 0, catalogue.top_bounds[top])
        last = np.where(anywhere, len(catalogue.leaf), catalogue.top_bounds[top + 1])
        return catalogue.leaf[
            catalogue.pick(first, last, uniform(keys, Stream.interest_leaf, counter))
        ]

    def periods(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(user, leaf, first step, last step) of every interest that a history meets."""
        user = np.repeat(np.arange(len(self.keys)), self.slots_U)
        slot = _within(self.slots_U)
        lengths = self.rows.lengths[user]
        held = self.at(user, slot, lengths - 1) + 1
        user, slot, lengths, number = (
            *(np.repeat(x, held) for x in (user, slot, lengths)),
            _within(held),
        )
        life, phase = self._life(user, slot)
        first = np.maximum(np.ceil((number - phase) * life), 0).astype(np.int64)
        last = np.minimum(np.ceil((number + 1 - phase) * life).astype(np.int64), lengths) - 1
        met = first <= last
        leaf = self.leaf(user, slot, number)
        return user[met], leaf[met], first[met], last[met]


def _views(
    catalogue: Catalogue, rows: _Rows, interests: _Interests, is_view: np.ndarray
) -> np.ndarray:
    """Position of the item of each view; 0 for other rows."""
    leaf_S, cell_S = _sessions(catalogue, rows, interests)
    view = np.flatnonzero(is_view)
    session = rows.session[view]
    user = rows.user[view]
    key = rows.key[view]
    step = rows.step[view]
    leaf = leaf_S[session]
    cell = cell_S[session]
    close = uniform(key, Stream.scope, step) < _IN_CELL
    first = np.where(close, catalogue.cell_bounds[cell], catalogue.leaf_bounds[leaf])
    last = np.where(close, catalogue.cell_bounds[cell + 1], catalogue.leaf_bounds[leaf + 1])
    item = catalogue.pick(first, last, uniform(key, Stream.item, _counter(step, 0)))
    for turn in range(1, _REDRAWS + 1):
        again = _repeats(user * len(catalogue.leaf) + item)
        at = uniform(key[again], Stream.item, _counter(step[again], turn))
        if turn == 2:  # the cell was no help: what else is popular in the leaf
            first[again], last[again] = (
                catalogue.leaf_bounds[leaf[again] + side] for side in (0, 1)
            )
        if turn < _REDRAWS:
            item[again] = catalogue.pick(first[again], last[again], at)
        else:
            low = catalogue.leaf_bounds[leaf[again]]
            high = catalogue.leaf_bounds[leaf[again] + 1]
            item[again] = low + (at * (high - low)).astype(np.int64)
    position = np.zeros(len(rows.user), np.int64)
    position[view] = item
    return position


def _sessions(
    catalogue: Catalogue, rows: _Rows, interests: _Interests
) -> tuple[np.ndarray, np.ndarray]:
    """Leaf and cell of each session."""
    opening = rows.opening
    user = rows.user[opening]
    step = rows.step[opening]
    keys = rows.key[opening]
    slots = interests.slots_U[user]
    slot = (uniform(keys, Stream.session_interest, step) ** 1.2 * slots).astype(
        np.int64
    )  # the first most often
    number = interests.at(user, slot, step)
    counter = _counter(slot, number)
    leaf = interests.leaf(user, slot, number)
    chance = uniform(keys, Stream.session_kind, step) < _CHANCE_SESSIONS
    found = catalogue.leaf[
        catalogue.pick(0, len(catalogue.leaf), uniform(keys, Stream.session_leaf, step))
    ]
    leaf = np.where(chance, found, leaf)

    first = catalogue.leaf_bounds[leaf]
    last = catalogue.leaf_bounds[leaf + 1]
    band = leaf * len(BANDS) + interests.band_U[user]
    own = (uniform(keys, Stream.interest_band, counter) < _OWN_BAND) & (
        catalogue.band_bounds[band] < catalogue.band_bounds[band + 1]
    )
    first = np.where(own, catalogue.band_bounds[band], first)
    last = np.where(own, catalogue.band_bounds[band + 1], last)
    home = (uniform(keys, Stream.session_drift, step) < _HOME_CELL) & ~chance
    at = uniform(keys, Stream.interest_cell, counter)
    at = np.where(home, at, uniform(keys, Stream.session_cell, step))
    return leaf, catalogue.cell_of[catalogue.pick(first, last, at)]


def _events(rows: _Rows) -> np.ndarray:
    """Event of each row; a user begins with a view, and a purchase is completed right after it was begun."""
    bounds = np.cumsum(SHARES[:_COMPLETE]) / (sum(SHARES) - SHARES[_COMPLETE])
    event = np.searchsorted(bounds[:-1], rows.uniform(Stream.event), side="right").astype(np.int8)
    event[rows.step == 0] = _VIEW
    completes = (event == _START) & (rows.uniform(Stream.complete) < _BUYS_COMPLETED)
    follows = np.zeros(len(event), bool)
    follows[1:] = completes[:-1] & (rows.step[1:] > 0)
    event[follows & (event == _START)] = _VIEW  # the next purchase waits until this one is complete
    begun = completes & (event == _START)
    follows[1:] &= begun[:-1]
    event[follows] = _COMPLETE
    return event


def _follow_ups(rows: _Rows, event: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Positions of all rows: what is no view is of an item viewed before, mostly the last; a completion of the item
    whose purchase was begun."""
    is_view = event == _VIEW
    views = np.flatnonzero(is_view)
    before = np.cumsum(is_view)  # views up to and with each row, over all users
    other = np.flatnonzero(~is_view)
    back = np.log1p(-uniform(rows.key[other], Stream.back, rows.step[other])) / np.log(
        1 - _STEP_BACK
    )
    first_view = before[rows.start[rows.user[other]]] - 1
    chosen = np.maximum(before[other] - 1 - back.astype(np.int64), first_view)
    position = position.copy()
    position[other] = position[views[chosen]]
    complete = np.flatnonzero(event == _COMPLETE)
    position[complete] = position[complete - 1]
    return position


def _times(rows: _Rows) -> np.ndarray:
    mean = np.where(rows.opens, _BETWEEN, _WITHIN)
    gap = 1 + (-np.log1p(-rows.uniform(Stream.gap)) * mean).astype(np.int64)
    gap[rows.start] = 0
    since = np.cumsum(gap)
    first = _EPOCH + (uniform(rows.keys, Stream.first_time) * _SPAN * _DAY).astype(np.int64)
    time: np.ndarray = since + (first - since[rows.start])[rows.user]
    return time


def _counter(major: np.ndarray, minor: np.ndarray | int) -> np.ndarray:
    """One counter from two small numbers; `minor` is below 1024."""
    counter: np.ndarray = major * 1024 + minor
    return counter


def _within(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... of each run of so many."""
    within: np.ndarray = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return within


def _repeats(key: np.ndarray) -> np.ndarray:
    """Indices at which a key stands for the second time or later."""
    order = np.argsort(key, kind="stable")
    again: np.ndarray = np.sort(order[1:][key[order[1:]] == key[order[:-1]]])
    return again
