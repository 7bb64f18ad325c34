"""Small random logs for plain baselines, without files, and batches of their users."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from torchrec_priors.data.histories import Histories
from torchrec_priors.plain.log import Log


class MadeUp:
    """A log as lists: `histories[u]` are the items of user u, all of them to be fitted to."""

    def __init__(self, histories, items, times=None, item_groups=None, user_groups=None):
        """
        Args:
            histories: the items of each user.
            items: the number of items.
            times: the times in the form of `histories`; None for a log without times.
            item_groups: pairs of an item and one of 3 groups, the prior "kind".
            user_groups: pairs of a user and one of 3 groups, the prior "club".
        """
        self.histories = histories
        self.items = items
        self.times = times
        self.item_groups = item_groups or []
        self.user_groups = user_groups or []
        groups = ["a", "b", "c"]
        priors = {
            "kind": SimpleNamespace(name="kind", kind="item", groups=groups),
            "club": SimpleNamespace(name="club", kind="user", groups=groups),
        }
        manifest = SimpleNamespace(
            name="made up",
            has_times=times is not None,
            priors=list(priors.values()),
            prior=priors.get,
        )
        self.data = SimpleNamespace(
            items=items,
            manifest=manifest,
            prior_pairs=lambda _name, _entity: _columns(self.item_groups),
            user_pairs=lambda _name: _columns(self.user_groups),
        )

    @property
    def log(self):
        lengths = np.array([len(history) for history in self.histories])
        user_N = np.repeat(np.arange(len(lengths)), lengths)
        log = Log(self.data, user_N, _flat(self.histories), lengths)
        times = None if self.times is None else _flat(self.times)
        object.__setattr__(log, "times", lambda: times)  # instead of the files
        return log

    def batch(self, histories=None, times=None):
        """Users with these histories, by default those of the log, and their times if it has any."""
        seen = _arrays(histories or self.histories)
        none = [np.empty(0, np.int64) for _ in seen]
        numbers = range(len(seen))
        columns = {}
        if self.times is not None:
            columns["timestamps"] = _arrays(times or self.times)
        return Histories.of(pa.array(numbers), seen, none, 1, columns, users=list(numbers))


@st.composite
def logs(draw):
    items = draw(st.integers(2, 7))
    item = st.integers(0, items - 1)
    histories = draw(st.lists(st.lists(item, min_size=1, max_size=8), min_size=1, max_size=6))
    times = None
    if draw(st.booleans()):
        times = [sorted(draw(st.integers(0, 9)) for _ in history) for history in histories]
    group = st.integers(0, 2)
    item_groups = draw(st.lists(st.tuples(item, group), max_size=8, unique=True))
    user = st.integers(0, len(histories) - 1)
    user_groups = draw(st.lists(st.tuples(user, group), max_size=8, unique=True))
    return MadeUp(histories, items, times, item_groups, user_groups)


def _columns(pairs):
    array = np.array(pairs, np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _arrays(lists):
    return [np.array(values, np.int64) for values in lists]


def _flat(lists):
    return np.array([value for values in lists for value in values], np.int64)
