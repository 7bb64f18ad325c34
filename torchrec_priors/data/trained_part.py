"""Which interactions weights were trained on, to compare them with the targets of a data set.

It records the first interactions of every user's history: how many, and one hash of their items.
This identifies whether a user of another data set, which has grown, has another horizon or was
prepared again, has the same past. Users and items are identified by hashes of their original ids,
because row ids differ between data sets.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa

from torchrec_priors.common.files import new_file
from torchrec_priors.common.splitmix import GOLDEN, mix
from torchrec_priors.parquet import read_table, readable, write_table
from torchrec_priors.prepared.data_set import PreparedData, RowGroup
from torchrec_priors.ranks.share import Share
from torchrec_priors.settings.training import TrainingConfig

_SCHEMA = pa.schema(
    [("user", pa.uint64()), ("items", pa.int32()), ("history", pa.uint64()), ("before", pa.bool_())]
)


def training_ends(data: PreparedData, config: TrainingConfig) -> np.ndarray:
    """The number of items of each history that are trained on, int32 [users], in file order."""
    return data.lengths if config.fit_all else data.training_ends


@dataclass(frozen=True)
class TrainedPart:
    """Parts of histories; a user may have several, of several runs.

    Attributes:
        user_N: uint64 hashes of the users' original ids.
        items_N: int32, number of interactions from the first on.
        history_N: uint64 hashes of their items.
        before_N: bool, whether it was trained on by a run that this one started from.
    """

    user_N: np.ndarray
    items_N: np.ndarray
    history_N: np.ndarray
    before_N: np.ndarray

    def __len__(self) -> int:
        return len(self.user_N)

    def only(self, chosen_N: np.ndarray) -> "TrainedPart":
        """The chosen parts, by bool or index."""
        return TrainedPart(
            self.user_N[chosen_N],
            self.items_N[chosen_N],
            self.history_N[chosen_N],
            self.before_N[chosen_N],
        )

    def as_before(self) -> "TrainedPart":
        """The same parts as they count for a run that starts from this one."""
        return TrainedPart(self.user_N, self.items_N, self.history_N, np.ones(len(self), bool))

    @classmethod
    def none(cls) -> "TrainedPart":
        """No parts."""
        return cls(
            np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.uint64), np.empty(0, bool)
        )

    @classmethod
    def together(cls, parts: list["TrainedPart"]) -> "TrainedPart":
        """The parts of all, each once."""
        columns = (
            np.concatenate([getattr(part, name) for part in (cls.none(), *parts)])
            for name in ("user_N", "items_N", "history_N", "before_N")
        )
        whole = cls(*columns)

        # In this order, equal parts with the same `before` are neighbours; the first of them is
        # kept.
        order = np.lexsort((whole.history_N, whole.items_N, whole.before_N, whole.user_N))
        whole = whole.only(order)
        same = np.zeros(len(whole), bool)
        same[1:] = (
            (whole.user_N[1:] == whole.user_N[:-1])
            & (whole.items_N[1:] == whole.items_N[:-1])
            & (whole.history_N[1:] == whole.history_N[:-1])
        )
        return whole.only(~same)


@dataclass(frozen=True)
class Pasts:
    """The users of a row group, with hashes of any part of their histories.

    Attributes:
        first_user: number of the first, in file order.
        user_U: uint64 hashes of their original ids.
        lengths_U: lengths of their histories.
    """

    first_user: int
    user_U: np.ndarray
    lengths_U: np.ndarray
    _start_U: np.ndarray
    _sums: np.ndarray

    def of_first(self, user: np.ndarray, items: np.ndarray) -> np.ndarray:
        """uint64 hashes of the first `items` items of the users' histories.

        Args:
            user: index of each user in the row group.
            items: number of items for each of them.
        """
        # Sums wrap around, so a difference of two is exact.
        start = self._start_U[user]
        hashed: np.ndarray = self._sums[start + items] - self._sums[start]
        return hashed

    def matches(self, part: TrainedPart) -> tuple[np.ndarray, np.ndarray]:
        """(index in the row group, index in `part`) of every user that is in both."""
        order = np.argsort(self.user_U, kind="stable")
        index = np.searchsorted(self.user_U[order], part.user_N)
        # Beyond the last: any index will do, since the hashes are compared below.
        index[index == len(order)] = 0

        user = order[index]
        known = self.user_U[user] == part.user_N
        return user[known], np.flatnonzero(known)


def pasts_of(data: PreparedData, share: Share) -> Iterator[Pasts]:
    """Yields the users of each row group that is this rank's."""
    item_I = hashes(data.catalogue(["item_id"])["item_id"])
    for group in data.row_groups[share.rank :: share.world]:
        yield _pasts(data, group, item_I)


def hashes(ids: pa.ChunkedArray) -> np.ndarray:
    """uint64 hashes of original ids of any type."""
    # As texts, since the type of an id may differ between data sets.
    texts = ids.cast(pa.string())
    digests = (
        blake2b(text.encode(), digest_size=8).digest()
        for chunk in texts.chunks
        for text in chunk.to_pylist()
    )
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def write_trained_part(file: Path, part: TrainedPart) -> None:
    """Writes the file completely or not at all."""
    columns = [part.user_N, part.items_N.astype(np.int32), part.history_N, part.before_N]
    with new_file(file) as partial:
        write_table(pa.table(columns, schema=_SCHEMA), partial)


def read_trained_part(file: Path) -> TrainedPart:
    """Reads what `write_trained_part` wrote.

    Raises:
        UserError: it cannot be read.
    """
    with readable(file, "put it back, or train again"):
        table = read_table(file, _SCHEMA.names).cast(_SCHEMA)
        return TrainedPart(*(table[name].to_numpy() for name in _SCHEMA.names))


def _pasts(data: PreparedData, group: RowGroup, item_I: np.ndarray) -> Pasts:
    """The users of a row group."""
    users = data.read_users(group)

    # The hash of a history is the sum of one term an interaction, which depends on item and
    # position: prefix sums give the hash of any part that begins at the first.
    position = np.arange(len(users.items)) - np.repeat(users.starts[:-1], users.lengths)
    term = mix(item_I[users.items] + (position + 1).astype(np.uint64) * GOLDEN)
    sums = np.zeros(len(term) + 1, np.uint64)
    np.cumsum(term, out=sums[1:])

    return Pasts(
        group.first_user, hashes(data.user_ids(group)), users.lengths, users.starts[:-1], sums
    )
