"""Interactions at one time are in a new order every epoch, and nothing else moves."""

import collections
import itertools
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from logs_in_memory import Log, changing, cuts, logs, pieces, plain, stream_of, take, time_of

from torchrec_priors.data.ties import Ties


def _shuffled(log: Log, group: int, epoch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A row group's columns, `events` telling whence each interaction came, besides."""
    row_group = log.row_groups[group]
    items = np.array([item for user in log.sequences[group] for item in user], np.int32)
    columns = {
        "items": items,
        "timestamps": time_of(items.astype(np.int64)),
        "events": (items % 100).astype(np.int8),
    }
    Ties(log, log.training_ends, seed).shuffle(row_group, epoch, columns)
    return columns


@settings(deadline=None, max_examples=100)
@given(logs(), st.integers(0, 5), st.integers(0, 2**31 - 1))
def test_training_items_of_one_user_and_one_time_change_places_among_themselves(log, epoch, seed):
    for group, users in enumerate(log.sequences):
        columns, first = _shuffled(log, group, epoch, seed), 0
        assert columns["events"].tolist() == (columns["items"] % 100).tolist(), (
            "columns moved apart"
        )
        for user in users:
            found = columns["items"][first : first + len(user)].tolist()
            first += len(user)
            end = len(user) - 2 * log.manifest.horizon
            assert found[end:] == user[end:], "validation and test stay"
            assert sorted(found) == user
            assert time_of(np.array(found)).tolist() == time_of(np.array(user)).tolist()


def test_every_order_of_a_tie_comes_up_about_equally_often_independently_of_other_ties():
    log = Log(
        [[6 + 2, 6 + 2], [1 + 2, 3 + 2]], 1
    )  # of the first two users, 012 345 tie, and 89, 10 11 and 12 13
    orders = [tuple(_shuffled(log, 0, epoch)["items"].tolist()) for epoch in range(3_600)]
    firsts = collections.Counter(order[:3] for order in orders)
    assert set(firsts) == set(itertools.permutations((0, 1, 2)))
    assert all(500 < number < 700 for number in firsts.values())
    pairs = collections.Counter((order[:3], order[3:6]) for order in orders)
    assert len(pairs) == 36
    assert all(60 < number < 145 for number in pairs.values())
    users = collections.Counter((order[0], order[8]) for order in orders)
    assert set(users) == set(itertools.product((0, 1, 2), (8,))), (
        "8 is tied with an item of another user alone"
    )
    assert orders != [
        tuple(_shuffled(log, 0, epoch, seed=1)["items"].tolist()) for epoch in range(3_600)
    ]


@settings(deadline=None, max_examples=50)
@given(logs(), changing(cuts), st.integers(0, 2), st.sampled_from([0, 2]))
def test_every_training_item_but_one_of_the_last_time_is_in_one_context_an_epoch(
    log, cut, epoch, workers
):
    stream = stream_of(log, cut, workers=workers)
    batches = take(stream, (epoch + 1) * stream.steps_an_epoch)[epoch * stream.steps_an_epoch :]
    found = [piece for windows in batches for piece in pieces(windows)]
    assert all(set(windows.columns) == set() for windows in batches), "times that nobody asked for"
    contexts = collections.Counter(item for context, _ in found for item in context)
    assert set(contexts.values()) <= {1}
    for items in log.training():
        missing = [item for item in items if item not in contexts]
        assert len(missing) == (1 if items else 0)
        assert all(time_of(item) == time_of(items[-1]) for item in missing)
    for context, future in found:
        times = time_of(np.array(context + future))
        assert (np.diff(times) >= 0).all(), "windows are in order of time"


@settings(deadline=None, max_examples=30)
@given(logs(), cuts)
def test_times_that_all_differ_change_nothing(log, cut):
    stored = log.read_into

    def read_into(group, places):
        stored(group, places)
        if "timestamps" in places:
            places["timestamps"][:] = places["items"]

    log.read_into = read_into
    as_stored, shuffled = stream_of(log, cut), stream_of(log, replace(cut, shuffle_ties=True))
    steps = 2 * as_stored.steps_an_epoch
    assert plain(take(shuffled, steps)) == plain(take(as_stored, steps))
