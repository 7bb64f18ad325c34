"""Windows cover the training part in one global order, whatever the ranks, workers and restarts."""

import collections
import itertools
import weakref
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_movielens import read_sequences
from torch.utils.data import DataLoader

from torchrec_priors.data.prepared import PreparedData, RowGroup, Users
from torchrec_priors.data.windows import Share, Windows, WindowStream
from torchrec_priors.errors import UserError

HORIZON = 8


class Log:
    """A data set in memory whose interactions all have items of their own: a window tells whence it is."""

    def __init__(self, lengths: list[list[int]], horizon: int) -> None:
        """`lengths`: of the users of each row group, all parts together."""
        numbers = itertools.count()
        self.sequences = [[list(itertools.islice(numbers, length)) for length in group] for group in lengths]
        self.manifest = SimpleNamespace(name="log", horizon=horizon)
        firsts = np.cumsum([0, *map(len, lengths)]).tolist()
        self.row_groups = [RowGroup(None, i, len(group), firsts[i]) for i, group in enumerate(lengths)]
        users = [user for group in self.sequences for user in group]
        self.owner = {item: number for number, user in enumerate(users) for item in user}

    def read_users(self, group: RowGroup, columns=()) -> Users:
        """Any column holds three times the item."""
        users = self.sequences[group.index]
        starts = np.cumsum([0, *map(len, users)])
        items = np.array([item for user in users for item in user], np.int64)
        return Users(starts, items, dict.fromkeys(columns, 3 * items))

    def training(self) -> list[list[int]]:
        """Each user's training items."""
        return [user[: len(user) - 2 * self.manifest.horizon] for group in self.sequences for user in group]


@st.composite
def logs(draw):
    """Users as preparation keeps them: more than twice the horizon of interactions."""
    horizon = draw(st.integers(1, 3))
    users = st.lists(st.integers(2 * horizon + 1, 2 * horizon + 12), min_size=1, max_size=4)
    return Log(draw(st.lists(users, min_size=1, max_size=6)), horizon)


@dataclass(frozen=True)
class Cut:
    """How a stream cuts windows and batches."""

    context: int
    horizon: int
    batch: int
    seed: int
    shuffled_row_groups: int


cuts = st.builds(
    Cut, st.integers(1, 6), st.integers(1, 4), st.integers(1, 7), st.integers(0, 2**31 - 1), st.integers(1, 3)
)


def _stream(log: Log, cut: Cut, **more) -> WindowStream:
    try:
        return WindowStream(log, **vars(cut), **more)
    except UserError:
        assume(False)
        raise


def _take(stream: WindowStream, steps: int) -> list[Windows]:
    return list(itertools.islice(stream, steps))


def _pieces(windows: Windows) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(context, future items) of each window."""
    ends = np.cumsum(windows.lengths)
    extended = [windows.items[end - length : end].tolist() for end, length in zip(ends, windows.lengths, strict=True)]
    return [
        (tuple(items[:context]), tuple(items[context:]))
        for items, context in zip(extended, windows.contexts, strict=True)
    ]


def _plain(batches: list[Windows]) -> list[tuple[int, list, list[int]]]:
    """For comparison: step, pieces and numbers of each batch."""
    return [(windows.step, _pieces(windows), windows.numbers.tolist()) for windows in batches]


@settings(deadline=None, max_examples=50)
@given(logs(), cuts)
def test_an_epoch_holds_each_window_of_the_definition_once(log, cut):
    """Contexts of L items, cut backwards from the last training item, which is in none; tau items follow."""
    expected = collections.Counter()
    for items in log.training():
        for end in range(len(items) - 1, 0, -cut.context):
            expected[tuple(items[max(0, end - cut.context) : end]), tuple(items[end : end + cut.horizon])] += 1
    stream = _stream(log, cut, columns=["timestamps"])
    epoch = _take(stream, stream.steps_an_epoch)
    for windows in epoch:
        assert windows.columns["timestamps"].tolist() == [3 * item for item in windows.items.tolist()]
        firsts = [log.owner[context[0]] for context, _ in _pieces(windows)]
        assert windows.users.tolist() == firsts, "the number of each window's user, in file order"
    assert collections.Counter(piece for windows in epoch for piece in _pieces(windows)) == expected
    assert stream.windows == sum(expected.values())
    assert [len(windows.lengths) for windows in epoch[:-1]] == [cut.batch] * (len(epoch) - 1)


@settings(deadline=None, max_examples=50)
@given(logs(), cuts, st.integers(0, 2))
def test_every_training_item_but_a_users_last_is_in_one_context_an_epoch_and_no_other_item_in_any_window(
    log, cut, epoch
):
    stream = _stream(log, cut)
    batches = _take(stream, (epoch + 1) * stream.steps_an_epoch)[epoch * stream.steps_an_epoch :]
    pieces = [piece for windows in batches for piece in _pieces(windows)]
    contexts = [item for context, _ in pieces for item in context]
    assert sorted(contexts) == [item for items in log.training() for item in items[:-1]]
    held_out = {item for group in log.sequences for user in group for item in user[-2 * log.manifest.horizon :]}
    assert not held_out & {item for context, future in pieces for item in context + future}
    assert all(1 <= len(future) <= cut.horizon for _, future in pieces), "a position without a next item"


@settings(deadline=None, max_examples=50)
@given(logs(), cuts, st.integers(1, 5))
def test_the_ranks_shares_together_are_the_global_batch(log, cut, world):
    alone = _stream(log, cut)
    steps = 2 * alone.steps_an_epoch + 1
    ranks = [_take(_stream(log, cut, share=Share(rank, world)), steps) for rank in range(world)]
    for whole, *shares in zip(_take(alone, steps), *ranks, strict=True):
        assert [share.step for share in shares] == [whole.step] * world
        assert [piece for share in shares for piece in _pieces(share)] == _pieces(whole)
        assert np.concatenate([share.numbers for share in shares]).tolist() == list(range(len(whole.lengths)))
        sizes = [len(share.lengths) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@settings(deadline=None, max_examples=50)
@given(logs(), cuts, st.data())
def test_a_stream_that_starts_later_goes_on_where_an_uninterrupted_one_would(log, cut, data):
    whole = _stream(log, cut)
    first = data.draw(st.integers(0, 3 * whole.steps_an_epoch))
    expected = _take(whole, first + 4)[first:]
    resumed = _take(_stream(log, cut, first_step=first), 4)
    assert _plain(resumed) == _plain(expected)
    assert [windows.step for windows in resumed] == list(range(first, first + 4))


@settings(deadline=None, max_examples=30)
@given(logs(), cuts, st.integers(1, 2))
def test_the_rows_shuffled_together_change_the_order_alone(log, cut, buffer):
    small = _stream(log, Cut(cut.context, cut.horizon, cut.batch, cut.seed, buffer))
    large = _stream(log, Cut(cut.context, cut.horizon, cut.batch, cut.seed, 100))
    assert small.steps_an_epoch == large.steps_an_epoch
    small_epoch, large_epoch = (
        collections.Counter(piece for windows in _take(stream, stream.steps_an_epoch) for piece in _pieces(windows))
        for stream in (small, large)
    )
    assert small_epoch == large_epoch


def test_training_items_too_few_for_one_window_are_refused():
    with pytest.raises(UserError, match="data set 'log': no user has two training interactions"):
        WindowStream(Log([[3, 3]], 1), context=4, horizon=1, batch=2, seed=0)


def test_memory_does_not_grow_with_the_log():
    """Of 40 row groups the 3 shuffled together and one more are ever held; each is read once an epoch."""
    log = Log([[9, 9]] * 40, 1)
    stream = WindowStream(log, context=2, horizon=1, batch=4, seed=0, shuffled_row_groups=3)
    read, held, read_users = [], [], log.read_users

    def counted(group, columns):
        users = read_users(group, columns)
        read.append(group.index)
        held.append(weakref.ref(users))
        return users

    log.read_users = counted
    for _ in itertools.islice(stream, stream.steps_an_epoch):
        assert sum(users() is not None for users in held) <= 3 + 1
    assert sorted(read) == list(range(40))


def test_windows_of_one_user_are_spread_over_the_epoch():
    """Shuffling users, not windows, would put them side by side."""
    log = Log([[30] * 5] * 8, 1)
    stream = WindowStream(log, context=2, horizon=1, batch=8, seed=0, shuffled_row_groups=8)
    owner = {item: user for user, items in enumerate(log.training()) for item in items}
    steps = collections.defaultdict(list)
    for windows in _take(stream, stream.steps_an_epoch):
        for context, _ in _pieces(windows):
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
    row_of = dict(zip(*[data.catalogue([name])[name].to_pylist() for name in ("item_id", "item")], strict=True))
    expected = collections.Counter()
    for ratings in read_sequences(small_raw, HORIZON).values():
        items = [row_of[rating.film] for rating in ratings[: -2 * HORIZON]]
        for end in range(len(items) - 1, 0, -10):
            expected[tuple(items[max(0, end - 10) : end]), tuple(items[end : end + 4])] += 1
    epoch = _take(stream, stream.steps_an_epoch)
    assert collections.Counter(piece for windows in epoch for piece in _pieces(windows)) == expected


def test_the_order_follows_from_seed_and_epoch(data):
    stream = _real(data)
    epochs = _take(stream, 2 * stream.steps_an_epoch)
    first, second = epochs[: stream.steps_an_epoch], epochs[stream.steps_an_epoch :]
    assert _plain(_take(_real(data), stream.steps_an_epoch)) == _plain(first)
    orders = [
        [piece for windows in batches for piece in _pieces(windows)]
        for batches in (first, second, _take(_real(data, seed=1), stream.steps_an_epoch))
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    for one, other in itertools.combinations(orders, 2):
        together = sum(a == b for a, b in zip(one, other, strict=True))
        assert together < len(one) / 4, "the same windows in the same places"


@pytest.mark.parametrize("first", [0, 7])
def test_workers_of_a_loader_change_nothing(first, data):
    steps = _real(data).steps_an_epoch + 3
    loader = DataLoader(_real(data, first_step=first), batch_size=None, num_workers=2)
    loaded = list(itertools.islice(loader, steps))
    assert _plain(loaded) == _plain(_take(_real(data, first_step=first), steps))


def test_a_share_is_a_contiguous_slice_and_the_shares_meet():
    assert [Share(rank, 3).of(8) for rank in range(3)] == [slice(0, 2), slice(2, 5), slice(5, 8)]
    assert [Share(rank, 3).of(1) for rank in range(3)] == [slice(0, 0), slice(0, 0), slice(0, 1)]
