"""The histories that the data set has of its users, found by their original ids.

Row groups that were read stay in memory, up to a limit. So a request for a user whose neighbours
were asked for does not read a file.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from threading import Lock

import numpy as np
import pyarrow as pa

from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_index import IdIndex
from torchrec_priors.prepared.users import History, Users

_KEPT_BYTES = 1 << 29  # of row groups

TIMES = "timestamps"


class StoredUsers:
    """The users of a data set. Any thread may call it."""

    def __init__(self, data: PreparedData, columns: Sequence[str]) -> None:
        """
        Args:
            data: the data set.
            columns: the columns of the histories in addition to the items. If the data set has
                times, they are read in any case.
        """
        self._data = data
        times = (TIMES,) if data.manifest.has_times else ()
        self._columns = tuple(dict.fromkeys((*columns, *times)))
        self._first_users = [group.first_user for group in data.row_groups]
        self._kept: OrderedDict[int, Users] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    @cached_property
    def index(self) -> IdIndex:
        """The numbers of the users by their ids. It is made when it is first used."""
        return IdIndex(self._data.user_texts().combine_chunks())

    def numbers(self, users: pa.Array) -> np.ndarray:
        """Returns the number of each user in file order, int64; -1 for unknown users.

        Args:
            users: the original ids as texts.
        """
        return self.index.places(users)

    def history(self, number: int) -> History:
        """Returns the whole history of a user, given by the number in file order."""
        group = bisect_right(self._first_users, number) - 1
        users = self._read(group)
        place = number - self._first_users[group]
        return History(users.history(place), users.columns_of(place), number)

    def _read(self, group: int) -> Users:
        """Returns the users of a row group, which is read if it is not in memory."""
        with self._lock:
            users = self._kept.get(group)
            if users is not None:
                self._kept.move_to_end(group)
                return users

        # Other threads may read the same row group at the same time, which does no harm.
        users = self._data.read_users(self._data.row_groups[group], self._columns)
        with self._lock:
            if group not in self._kept:
                self._kept[group] = users
                self._bytes += _bytes(users)
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                _, left = self._kept.popitem(last=False)
                self._bytes -= _bytes(left)
        return users


def _bytes(users: Users) -> int:
    return users.items.nbytes + sum(values.nbytes for values in users.columns.values())
