"""Windows cover the training part in one global order, whatever the ranks, threads and restarts."""

import collections
import itertools
import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs_in_memory import (
    Log,
    changing,
    cuts,
    logs,
    moving,
    pieces,
    plain,
    plainly_read,
    stream_of,
    take,
    time_of,
    token_cuts,
)
from small_movielens import read_sequences

from torchrec_priors.data.windows import WindowStream
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.share import Share

HORIZON = 8


@settings(deadline=None, max_examples=50)
@given(logs(), cuts)
def test_an_epoch_holds_each_window_of_the_definition_once(log, cut):
    """Contexts of L items, cut backwards from the last training item, which is in none; tau items follow."""
    expected = collections.Counter()
    for items in log.training():
        for end in range(len(items) - 1, 0, -cut.context):
            expected[
                tuple(items[max(0, end - cut.context) : end]), tuple(items[end : end + cut.horizon])
            ] += 1
    stream = stream_of(log, cut, columns=["timestamps"])
    epoch = take(stream, stream.steps_an_epoch)
    for windows in epoch:
        assert windows.columns["timestamps"].tolist() == time_of(windows.items).tolist()
        firsts = [log.owner[context[0]] for context, _ in pieces(windows)]
        assert windows.users.tolist() == firsts, "the number of each window's user, in file order"
    assert collections.Counter(piece for windows in epoch for piece in pieces(windows)) == expected
    assert stream.windows == sum(expected.values())
    assert [len(windows.lengths) for windows in epoch[:-1]] == [cut.batch] * (len(epoch) - 1)


@settings(deadline=None, max_examples=50)
@given(logs(), moving(cuts), st.integers(0, 2))
def test_every_training_item_but_a_users_last_is_in_one_context_an_epoch_and_no_other_item_in_any_window(
    log, cut, epoch
):
    stream = stream_of(log, cut)
    batches = take(stream, (epoch + 1) * stream.steps_an_epoch)[epoch * stream.steps_an_epoch :]
    found = [piece for windows in batches for piece in pieces(windows)]
    contexts = [item for context, _ in found for item in context]
    assert sorted(contexts) == [item for items in log.training() for item in items[:-1]]
    held_out = {
        item
        for group in log.sequences
        for user in group
        for item in user[-2 * log.manifest.horizon :]
    }
    assert not held_out & {item for context, future in found for item in context + future}
    assert all(1 <= len(future) <= cut.horizon for _, future in found), (
        "a position without a next item"
    )


@settings(deadline=None, max_examples=100)
@given(logs(), cuts | token_cuts, st.integers(1, 4), st.sampled_from([None, 1, 64]), st.data())
def test_windows_are_those_of_the_plain_reader(log, cut, world, dim, data):
    share = Share(data.draw(st.integers(0, world - 1)), world)
    stream = stream_of(log, cut, share=share, balanced_for=dim)
    expected = plainly_read(log, cut, 2, share, dim)
    assert len(expected) == 2 * stream.steps_an_epoch
    assert plain(take(stream, len(expected))) == expected


@settings(deadline=None, max_examples=50)
@given(logs(), token_cuts)
def test_a_budget_of_tokens_is_never_exceeded_and_never_leaves_a_batch_empty(log, cut):
    stream = stream_of(log, cut)
    epoch = take(stream, stream.steps_an_epoch)
    tokens = [int(windows.contexts.sum()) for windows in epoch]
    assert 0 < min(tokens) <= max(tokens) <= cut.batch_tokens
    longest = max(int(windows.contexts.max()) for windows in epoch)
    assert stream.steps_an_epoch == -(-sum(tokens) // (cut.batch_tokens - longest + 1))
    (following,) = take(stream_of(log, cut, first_step=stream.steps_an_epoch), 1)
    assert following.step == stream.steps_an_epoch


def test_a_budget_that_one_window_may_exceed_is_refused():
    log, cut = Log([[20]], 1), {"context": 6, "horizon": 1, "batch": 0, "seed": 0}
    assert WindowStream(log, batch_tokens=11, **cut).steps_an_epoch == 3
    with pytest.raises(
        UserError,
        match=r"training\.batch_tokens = 10 must be at least 11: twice the longest context",
    ):
        WindowStream(log, batch_tokens=10, **cut)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(logs(), changing(cuts), st.integers(1, 5))
def test_the_ranks_shares_together_are_the_global_batch(log, cut, world):
    alone = stream_of(log, cut)
    steps = 2 * alone.steps_an_epoch + 1
    ranks = [take(stream_of(log, cut, share=Share(rank, world)), steps) for rank in range(world)]
    for whole, *shares in zip(take(alone, steps), *ranks, strict=True):
        assert [share.step for share in shares] == [whole.step] * world
        assert [piece for share in shares for piece in pieces(share)] == pieces(whole)
        assert np.concatenate([share.numbers for share in shares]).tolist() == list(
            range(len(whole.lengths))
        )
        sizes = [len(share.lengths) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@settings(deadline=None, max_examples=50)
@given(logs(), changing(cuts | token_cuts), st.data())
def test_a_stream_that_starts_later_goes_on_where_an_uninterrupted_one_would(log, cut, data):
    whole = stream_of(log, cut)
    first = data.draw(st.integers(0, 3 * whole.steps_an_epoch))
    expected = take(whole, first + 4)[first:]
    resumed = take(stream_of(log, cut, first_step=first), 4)
    assert plain(resumed) == plain(expected)
    assert [windows.step for windows in resumed] == list(range(first, first + 4))


@settings(deadline=None, max_examples=30)
@given(logs(), changing(cuts), st.integers(1, 2))
def test_the_rows_shuffled_together_change_the_order_alone(log, cut, buffer):
    small = stream_of(log, replace(cut, shuffled_row_groups=buffer))
    large = stream_of(log, replace(cut, shuffled_row_groups=100))
    assert small.steps_an_epoch == large.steps_an_epoch
    small_epoch, large_epoch = (
        collections.Counter(
            piece for windows in take(stream, stream.steps_an_epoch) for piece in pieces(windows)
        )
        for stream in (small, large)
    )
    assert small_epoch == large_epoch


@settings(deadline=None, max_examples=50)
@given(logs(), cuts | token_cuts, st.integers(0, 2))
def test_windows_that_move_are_as_many_no_longer_and_the_last_ones_reach_the_end(log, cut, epoch):
    cut = replace(cut, moving=True)
    stream, fixed = stream_of(log, cut), stream_of(log, replace(cut, moving=False))
    assert (stream.windows, stream.steps_an_epoch) == (fixed.windows, fixed.steps_an_epoch)
    batches = take(stream, (epoch + 1) * stream.steps_an_epoch)[epoch * stream.steps_an_epoch :]
    found = [piece for windows in batches for piece in pieces(windows)]
    assert len(found) == fixed.windows
    assert max(len(context) for context, _ in found) <= cut.context
    if cut.batch_tokens:
        assert max(int(windows.contexts.sum()) for windows in batches) <= cut.batch_tokens
    for items in log.training():
        own = (
            sorted(piece for piece in found if log.owner[piece[0][0]] == log.owner[items[0]])
            if items
            else []
        )
        assert [len(future) for _, future in own] == [
            min(cut.horizon, items[-1] - context[-1]) for context, _ in own
        ]
        assert all(len(context) == cut.context for context, _ in own[1:-1])


def test_windows_move_everywhere_where_they_may_from_epoch_to_epoch():
    log = Log([[2 + 23]], 1)  # 22 items of contexts: 3 windows of 10, with room for 8
    stream = WindowStream(log, context=10, horizon=1, batch=3, seed=0, moving=True)
    last = [
        min(len(context) for context, _ in pieces(windows) if 21 in context)
        for windows in take(stream, 400)
    ]
    assert sorted(set(last)) == list(range(2, 11))
    assert all(20 < last.count(length) < 80 for length in set(last)), "about as often each"
    assert last != [
        min(len(context) for context, _ in pieces(windows) if 21 in context)
        for windows in take(
            WindowStream(log, context=10, horizon=1, batch=3, seed=1, moving=True), 400
        )
    ]
    whole = WindowStream(Log([[2 + 8]], 1), context=10, horizon=1, batch=1, seed=0, moving=True)
    assert {tuple(pieces(windows)[0][0]) for windows in take(whole, 20)} == {tuple(range(7))}


def test_training_items_too_few_for_one_window_are_refused():
    with pytest.raises(UserError, match="data set 'log': no user has two training interactions"):
        WindowStream(Log([[3, 3]], 1), context=4, horizon=1, batch=2, seed=0)


@pytest.mark.parametrize(("workers", "chunks"), [(0, 1), (2, 2)])
def test_memory_does_not_grow_with_the_log(workers, chunks):
    """Of 40 row groups 3 are shuffled together: they are held, and with threads the next 3; each is read once."""
    log = Log([[9, 9]] * 40, 1)
    stream = WindowStream(
        log, context=2, horizon=1, batch=4, seed=0, shuffled_row_groups=3, workers=workers
    )
    with closing(iter(stream)) as batches:
        for _ in range(stream.steps_an_epoch):
            next(batches)
            held = {id(memory()): memory() for _, memory in log.read if memory() is not None}
            assert len(held) <= chunks
            assert all(len(items) <= 3 * 2 * 9 for items in held.values())
            del held
    assert sorted(group for group, _ in log.read[:40]) == list(range(40))
    assert len(log.read) <= 40 + 3 * (chunks - 1), "ahead, into the next epoch"


def test_windows_of_one_user_are_spread_over_the_epoch():
    """Shuffling users, not windows, would put them side by side."""
    log = Log([[30] * 5] * 8, 1)
    stream = WindowStream(log, context=2, horizon=1, batch=8, seed=0, shuffled_row_groups=8)
    owner = {item: user for user, items in enumerate(log.training()) for item in items}
    steps = collections.defaultdict(list)
    for windows in take(stream, stream.steps_an_epoch):
        for context, _ in pieces(windows):
            steps[owner[context[0]]].append(windows.step)
    assert len(steps) == 40
    assert min(max(own) - min(own) for own in steps.values()) > stream.steps_an_epoch / 2


@pytest.fixture
def data(small_data):
    return PreparedData(small_data)


def _real(data: PreparedData, seed: int = 0, **more) -> WindowStream:
    how = {"context": 10, "horizon": 4, "batch": 16, "shuffled_row_groups": 2}
    return WindowStream(data, seed=seed, **{**how, **more})


def test_windows_of_a_prepared_data_set_hold_its_training_items(data, small_raw):
    stream = _real(data)
    assert len(data.row_groups) > 2, "the buffer would hold everything"
    row_of = dict(
        zip(
            *[data.catalogue([name])[name].to_pylist() for name in ("item_id", "item")], strict=True
        )
    )
    expected = collections.Counter()
    for ratings in read_sequences(small_raw, HORIZON).values():
        items = [row_of[rating.film] for rating in ratings[: -2 * HORIZON]]
        for end in range(len(items) - 1, 0, -10):
            expected[tuple(items[max(0, end - 10) : end]), tuple(items[end : end + 4])] += 1
    epoch = take(stream, stream.steps_an_epoch)
    assert collections.Counter(piece for windows in epoch for piece in pieces(windows)) == expected


def test_the_order_follows_from_seed_and_epoch(data):
    stream = _real(data)
    epochs = take(stream, 2 * stream.steps_an_epoch)
    first, second = epochs[: stream.steps_an_epoch], epochs[stream.steps_an_epoch :]
    assert plain(take(_real(data), stream.steps_an_epoch)) == plain(first)
    orders = [
        [piece for windows in batches for piece in pieces(windows)]
        for batches in (first, second, take(_real(data, seed=1), stream.steps_an_epoch))
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    for one, other in itertools.combinations(orders, 2):
        together = sum(a == b for a, b in zip(one, other, strict=True))
        assert together < len(one) / 4, "the same windows in the same places"


@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("workers", [1, 3])
def test_threads_change_nothing(first, workers, data):
    steps = _real(data).steps_an_epoch + 3
    with closing(iter(_real(data, first_step=first, workers=workers))) as batches:
        assert plain(itertools.islice(batches, steps)) == plain(
            take(_real(data, first_step=first), steps)
        )


def test_threads_end_with_the_iterator(data):
    batches = iter(_real(data, workers=2))
    next(batches)
    assert any(thread.name.startswith("row-groups") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("row-groups") for thread in threading.enumerate())


def test_a_share_is_a_contiguous_slice_and_the_shares_meet():
    assert [Share(rank, 3).of(8) for rank in range(3)] == [slice(0, 2), slice(2, 5), slice(5, 8)]
    assert [Share(rank, 3).of(1) for rank in range(3)] == [slice(0, 0), slice(0, 0), slice(0, 1)]
