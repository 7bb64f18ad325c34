"""Users who mix interests: what is planted is in the log, and what is switched off leaves no trace."""

import dataclasses

import numpy as np
import pytest
from mixed_logs import NOTHING, SIGNALS, histories, only, structure

from torchrec_priors.errors import UserError
from torchrec_priors.synthetic.histories import EVENTS, LENGTHS
from torchrec_priors.synthetic.mixed.histories import EVENT_SHARES, make_mixed
from torchrec_priors.synthetic.mixed.mix import Mix, Source
from torchrec_priors.synthetic.mixed.pools import Pools
from torchrec_priors.synthetic.mixed.tastes import MOST_INTERESTS

SHARE = 0.25


@pytest.fixture(scope="module")
def made():
    return histories(Mix())


def _matches(made, planted, signal, owner):
    """[rows]: how much each row's item is what the signal of a row's owner would draw.

    Args:
        owner: the row whose user, session and event are asked.
    """
    leaf = planted.catalogue.leaf[made.position]
    user = np.repeat(np.arange(len(made.users)), made.lengths)[owner]
    match signal:
        case "long_term":
            held = np.arange(MOST_INTERESTS) < made.tastes.interests[user, None]
            return ((made.tastes.leaf_UK[user] == leaf[:, None]) & held).any(axis=1)
        case "session":
            return (made.topic_R2[owner] == leaf[:, None]).any(axis=1)
        case "event":
            favourites = [np.isin(made.position, each) for each in planted.favourite_of_event]
            return np.stack(favourites)[made.event[owner], np.arange(len(owner))]
        case "community":
            community = planted.community[made.position]
            return (made.tastes.community_U2[user] == community[:, None]).any(axis=1)
        case "group":
            favourites = [np.isin(made.position, each) for each in planted.favourite_of_group]
            return np.stack(favourites)[made.tastes.group[user], np.arange(len(owner))]


def _trace(made, planted, signal):
    """How far a user's items fit the user's own state better than that of a stranger.

    This is a t value over users. Users are drawn independently, so without the signal own and
    strange states are exchangeable, and the mean is zero.
    """
    rows = np.arange(len(made.position))
    stranger = np.roll(rows.reshape(len(made.users), -1), 1, axis=0).ravel()
    # As strangers form a ring, only every second user is compared, which keeps pairs independent.
    own, strange = (
        _matches(made, planted, signal, owner).astype(float) for owner in (rows, stranger)
    )
    gain = (own - strange).reshape(len(made.users), -1).mean(axis=1)[::2]
    return gain.mean() / (gain.std(ddof=1) / len(gain) ** 0.5)


@pytest.mark.parametrize("on", SIGNALS)
def test_a_signal_alone_leaves_its_trace_and_no_other(on):
    made = histories(only(**{on: SHARE}))
    traces = {signal: _trace(made, structure(), signal) for signal in SIGNALS}
    assert traces.pop(on) > 10
    assert all(abs(trace) < 4 for trace in traces.values()), traces


@pytest.mark.parametrize("off", SIGNALS)
def test_a_signal_that_is_off_leaves_no_trace_among_others(off):
    others = {signal: SHARE * (signal != off) for signal in SIGNALS}
    made = histories(Mix(**others))
    traces = {signal: _trace(made, structure(), signal) for signal in SIGNALS}
    assert abs(traces.pop(off)) < 4
    assert all(trace > 10 for trace in traces.values()), traces


@pytest.mark.parametrize(
    ("off", "kind"), [("event", "events"), ("community", "communities"), ("group", "groups")]
)
def test_the_sets_of_a_signal_that_is_off_are_never_used(off, kind):
    """With these sets exchanged for others, the log stays the same; it does not if the signal is on."""
    planted = structure()
    ends = {"events": planted.groups, "communities": planted.events, "groups": planted.whole}
    pools = np.split(planted.pools.items, planted.pools.bounds[1:-1])
    for number in range(getattr(planted, kind), ends[kind]):
        pools[number] = np.arange(len(pools[number]))
    changed = dataclasses.replace(planted, pools=Pools(planted.pools.weight, pools))

    shares = {**dict.fromkeys(SIGNALS, 0.2), off: 0.0}
    first, second = (histories(Mix(**shares), 50, planted=each) for each in (planted, changed))
    assert np.array_equal(first.position, second.position)
    shares[off] = 0.2
    first, second = (histories(Mix(**shares), 50, planted=each) for each in (planted, changed))
    assert not np.array_equal(first.position, second.position)


def _chi_square(counts, expected):
    """The chi-square statistic as a z value."""
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    return (statistic - freedom) / (2 * freedom) ** 0.5


def test_sources_and_events_have_their_shares_and_are_independent(made):
    rows = len(made.source)
    gave_up = (made.source == Source.popular).mean() - Mix().shares()[0]
    assert 0 <= gave_up < 0.02
    kept = made.source != Source.popular
    shares = np.array(Mix().shares()[1:])
    counts = np.bincount(made.source[kept], minlength=6)[1:]
    assert np.abs(counts / rows - shares).max() < 0.01
    events = np.bincount(made.event, minlength=len(EVENTS))
    assert abs(_chi_square(events, rows * np.array(EVENT_SHARES))) < 4
    both = np.bincount(made.source * 6 + made.event, minlength=36)
    expected = np.outer(np.bincount(made.source, minlength=6), events).ravel() / rows
    assert ((both - expected) ** 2 / expected).sum() < 25 + 4 * 50**0.5


def test_an_item_is_in_the_pool_that_drew_it_and_the_pool_is_of_its_source(made):
    planted = structure()
    pools = np.split(planted.pools.items, planted.pools.bounds[1:-1])
    for number in np.unique(made.pool):
        assert np.isin(made.position[made.pool == number], pools[number]).all()
    rows = np.arange(len(made.source))
    for source in list(Source)[1:]:
        of_source = made.source == source
        assert _matches(made, planted, source.name, rows)[of_source].all()
    assert (made.pool[made.source == Source.popular] == planted.whole).all()


def test_no_user_meets_an_item_twice(made):
    user = np.repeat(made.users, made.lengths)
    assert len(np.unique(user * 6_000 + made.position)) == len(user)
    assert (np.diff(made.time)[np.diff(user) == 0] > 0).all()


def test_interests_are_in_several_categories_and_are_mixed_within_sessions(made):
    catalogue = structure().catalogue
    top = catalogue.top_of_leaf[made.tastes.leaf_UK]
    for number, tops in zip(made.tastes.interests, top, strict=True):
        assert 3 <= number <= MOST_INTERESTS
        assert len(set(tops)) == MOST_INTERESTS
    user = np.repeat(made.users, made.lengths)
    together = (np.diff(user) == 0) & (np.diff(made.session) == 0)
    category = catalogue.top_of_leaf[catalogue.leaf[made.position]]
    assert (np.diff(category)[together] != 0).mean() > 0.6


def test_the_weights_of_interests_are_recovered_from_the_log():
    """The counts of a user's interests fit the planted weights, by chi-square."""
    made = histories(only(long_term=0.5, drift=0.0), users=800, length=60)
    tastes = made.tastes
    every = np.arange(800)
    weight = tastes.weights(every, np.zeros(800))
    assert np.allclose(weight.sum(axis=1), 1)
    assert np.array_equal(weight, tastes.weights(every, np.full(800, 59)))

    row = np.flatnonzero(made.source == Source.long_term)
    user = row // 60
    number = (tastes.leaf_UK[user] == made.pool[row, None]).argmax(axis=1)
    counts = np.zeros_like(weight)
    np.add.at(counts, (user, number), 1.0)
    # Before it gives up, a row draws 32 times, so popular leaves lose only a little.
    expected = weight * counts.sum(axis=1, keepdims=True)
    used = weight > 0
    statistic = ((counts - expected)[used] ** 2 / expected[used]).sum()
    freedom = used.sum() - 800
    assert abs(statistic - freedom) / (2 * freedom) ** 0.5 < 5
    assert np.corrcoef(counts[used], expected[used])[0, 1] > 0.85


def _drift_trace(mix):
    """How far interests come when their weight is high, against the weights of a log that drifts."""
    made = histories(mix, users=800, length=150)
    drifting = histories(only(long_term=0.5, drift=2.0), users=800, length=150).tastes
    user = np.repeat(np.arange(800), 150)
    weight = drifting.weights(user, np.tile(np.arange(150), 800)).reshape(800, 150, -1)
    leaf = structure().catalogue.leaf[made.position].reshape(800, 150, 1)
    chosen = (drifting.leaf_UK[:, None, :] == leaf) & (weight > 0)
    moved = weight - weight.mean(axis=1, keepdims=True)
    gain = (chosen * moved).sum(axis=(1, 2))
    return gain.mean() / (gain.std(ddof=1) / 800**0.5)


def test_long_term_weights_drift_slowly_and_only_if_asked():
    assert _drift_trace(only(long_term=0.5, drift=2.0)) > 10
    # Unseen items of a leaf become rare in any log, at all phases of the drift alike.
    assert abs(_drift_trace(only(long_term=0.5, drift=0.0))) < 4
    tastes = histories(Mix(drift=2.0), users=100).tastes
    every = np.arange(100)
    now, soon, later = (tastes.weights(every, np.full(100, step)) for step in (0, 8, 100))
    assert np.abs(soon - now).sum(axis=1).mean() < 0.35 * np.abs(later - now).sum(axis=1).mean()


def test_communities_cross_categories():
    planted = structure()
    catalogue = planted.catalogue
    top = catalogue.top_of_leaf[catalogue.leaf]
    table = np.bincount(planted.community * 10 + top, minlength=200).reshape(20, 10)
    assert np.ptp(table.sum(axis=1)) <= 1
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / len(top)
    freedom = 19 * 9
    assert ((table - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5


def test_a_users_rows_depend_on_the_user_alone_and_a_cut_history_is_the_beginning_of_the_whole():
    users = np.arange(1, 60)
    lengths = LENGTHS.of(0, users)
    whole = make_mixed(structure(), Mix(), 0, users, lengths)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    for index in range(0, 59, 7):
        cut = lengths[index : index + 1] // 2
        one = make_mixed(structure(), Mix(), 0, users[index : index + 1], cut)
        rows = slice(bounds[index], bounds[index] + int(cut[0]))
        for name in ("position", "event", "time", "source", "pool", "session"):
            assert np.array_equal(getattr(one, name), getattr(whole, name)[rows])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"session": -0.1}, "session = -0.1: give a share from 0 to 1"),
        ({"group": float("nan")}, "group = nan: give a share"),
        ({"long_term": 0.9}, "are 1.6 together: give shares with a sum of at most 1"),
        ({"drift": float("inf")}, "drift = inf: give a number from 0 to 10"),
        ({"communities": 1}, "communities = 1: give a number from 2 to 1000"),
    ],
)
def test_values_out_of_range_are_named(values, says):
    with pytest.raises(UserError, match=says.replace(".", r"\.")):
        Mix(**values)


def test_shares_may_sum_up_to_one_with_rounding():
    mix = Mix(**dict(zip(SIGNALS, (0.1, 0.2, 0.3, 0.3, 0.1), strict=True)))
    assert mix.shares()[0] == pytest.approx(0, abs=1e-9)
    assert Mix(**NOTHING).shares() == [1.0, 0, 0, 0, 0, 0]
