"""Logs in memory whose windows tell whence they are, and a plain reader of their windows, by loops."""

import itertools
import weakref
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from torchrec_priors.data.windows import Windows, WindowStream
from torchrec_priors.prepared.users import RowGroup
from torchrec_priors.ranks.share import Share


class Log:
    """A data set in memory whose interactions all have items of their own: a window tells whence it is."""

    def __init__(self, lengths: list[list[int]], horizon: int) -> None:
        """`lengths`: of the users of each row group, all parts together."""
        numbers = itertools.count()
        self.sequences = [
            [list(itertools.islice(numbers, length)) for length in group] for group in lengths
        ]
        self.manifest = SimpleNamespace(name="log", horizon=horizon)
        firsts = np.cumsum([0, *map(len, lengths)]).tolist()
        self.row_groups = [
            RowGroup(None, i, len(group), firsts[i]) for i, group in enumerate(lengths)
        ]
        self.users = [user for group in self.sequences for user in group]
        self.owner = {item: number for number, user in enumerate(self.users) for item in user}
        self.lengths = np.array([length for group in lengths for length in group], np.int32)
        self.training_ends = self.lengths - 2 * horizon
        self.read = []  # (row group, the memory that its items were put in, weakly) by reading

    def read_into(self, group: RowGroup, places) -> None:
        """Three items at a time have the same timestamp, of several users, too."""
        items = np.array([item for user in self.sequences[group.index] for item in user], np.int64)
        for name, place in places.items():
            assert name in ("items", "timestamps")
            place[:] = time_of(items) if name == "timestamps" else items
        self.read.append((group.index, weakref.ref(places["items"].base)))

    def training(self) -> list[list[int]]:
        """Each user's training items."""
        return [user[: len(user) - 2 * self.manifest.horizon] for user in self.users]


def time_of(items):
    return items // 3 * 9


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
    batch_tokens: int = 0
    moving: bool = False
    shuffle_ties: bool = False


_SEEDS, _ROW_GROUPS = st.integers(0, 2**31 - 1), st.integers(1, 3)
cuts = st.builds(Cut, st.integers(1, 6), st.integers(1, 4), st.integers(1, 7), _SEEDS, _ROW_GROUPS)
token_cuts = st.builds(
    Cut,
    st.integers(1, 6),
    st.integers(1, 4),
    st.just(0),
    _SEEDS,
    _ROW_GROUPS,
    batch_tokens=st.integers(11, 40),
)


def moving(cuts: st.SearchStrategy[Cut]) -> st.SearchStrategy[Cut]:
    """Besides, the same with windows cut elsewhere in every epoch."""
    return st.builds(replace, cuts, moving=st.booleans())


def changing(cuts: st.SearchStrategy[Cut]) -> st.SearchStrategy[Cut]:
    """Besides, the same with windows cut elsewhere, or ties in other orders, in every epoch."""
    return st.builds(replace, moving(cuts), shuffle_ties=st.booleans())


def stream_of(log: Log, cut: Cut, **more) -> WindowStream:
    assume(any(len(items) > 1 for items in log.training()))
    return WindowStream(log, **vars(cut), **more)


def take(stream: WindowStream, steps: int) -> list[Windows]:
    return list(itertools.islice(stream, steps))


def pieces(windows: Windows) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(context, future items) of each window."""
    ends = np.cumsum(windows.lengths)
    extended = [
        windows.items[end - length : end].tolist()
        for end, length in zip(ends, windows.lengths, strict=True)
    ]
    return [
        (tuple(items[:context]), tuple(items[context:]))
        for items, context in zip(extended, windows.contexts, strict=True)
    ]


def plain(batches: list[Windows]) -> list[tuple[int, list, list[int], list[int]]]:
    """For comparison: step, pieces, numbers and users of each batch."""
    return [
        (windows.step, pieces(windows), windows.numbers.tolist(), windows.users.tolist())
        for windows in batches
    ]


def plainly_read(
    log: Log, cut: Cut, epochs: int, share: Share = Share(), dim: int | None = None
) -> list:
    """What a stream gives in some epochs, as `plain` puts it: window after window, number after number."""
    found, step = [], 0
    for epoch in range(epochs):
        for batch in _plain_batches(log, cut, epoch):
            size = len(batch)
            if dim is None:
                own = list(range(size))[
                    size * share.rank // share.world : size * (share.rank + 1) // share.world
                ]
            else:
                own = _plain_deal([len(context) for context, _, _ in batch], share, dim)
            windows = [batch[number] for number in own]
            found.append(
                (step, [window[:2] for window in windows], own, [window[2] for window in windows])
            )
            step += 1
    return found


def _plain_batches(log: Log, cut: Cut, epoch: int) -> list[list]:
    random = np.random.Generator(np.random.Philox(key=[cut.seed, epoch]))
    groups, line = random.permutation(len(log.row_groups)).tolist(), []
    for first in range(0, len(groups), cut.shuffled_row_groups):
        fresh = []
        for group in groups[first : first + cut.shuffled_row_groups]:
            for user in log.sequences[group]:
                items = user[: len(user) - 2 * log.manifest.horizon]
                for end in range(len(items) - 1, 0, -cut.context):
                    context, future = (
                        items[max(0, end - cut.context) : end],
                        items[end : end + cut.horizon],
                    )
                    fresh.append((tuple(context), tuple(future), log.owner[user[0]]))
        line += [fresh[place] for place in random.permutation(len(fresh))]
    quota = cut.batch or cut.batch_tokens - max(len(window[0]) for window in line) + 1
    batches, end = {}, 0
    for window in line:
        end += 1 if cut.batch else len(window[0])
        batches.setdefault((end - 1) // quota, []).append(window)
    assert list(batches) == list(range(len(batches))), "a batch without a window"
    return list(batches.values())


def _plain_deal(lengths: list[int], share: Share, dim: int) -> list[int]:
    cost = [5 * dim * length + length**2 for length in lengths]
    work, own = [0] * share.world, []
    for number in sorted(range(len(cost)), key=lambda number: (-cost[number], number)):
        rank = min(range(share.world), key=lambda rank: (work[rank], rank))
        work[rank] += cost[number]
        if rank == share.rank:
            own.append(number)
    return sorted(own)
