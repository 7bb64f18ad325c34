"""Records which interactions a model was trained on, to compare them with targets.

For each user, the first interactions of the history are recorded by their number and one hash. So a
user's history can be compared even in another data set: one that has grown, has another horizon, or
was prepared again. Users and items are identified by hashes of their original ids, as row ids
differ between data sets.
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
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.users import RowGroup
from torchrec_priors.ranks.share import Share
from torchrec_priors.settings.training import TrainingConfig

_SCHEMA = pa.schema(
    [("user", pa.uint64()), ("items", pa.int32()), ("history", pa.uint64()), ("before", pa.bool_())]
)


def training_ends(data: PreparedData, config: TrainingConfig) -> np.ndarray:
    """Returns the number of items in each history that are trained on: int32 [users].

    Users are in file order. With `fit_all`, the whole history is trained on.
    """
    return data.lengths if config.fit_all else data.training_ends


@dataclass(frozen=True)
class TrainedPart:
    """The parts of histories that a model was trained on.

    A user may have several parts, if several runs trained the model one after another.

    Attributes:
        user_N: uint64, the hash of the user's original id.
        items_N: int32, the number of interactions in the part, from the first one on.
        history_N: uint64, the hash of these interactions.
        before_N: bool, whether the part is from an earlier run, from which the last run started.
    """

    user_N: np.ndarray
    items_N: np.ndarray
    history_N: np.ndarray
    before_N: np.ndarray

    def __len__(self) -> int:
        return len(self.user_N)

    def only(self, chosen_N: np.ndarray) -> "TrainedPart":
        """Returns the chosen parts, given by bool or index."""
        return TrainedPart(
            self.user_N[chosen_N],
            self.items_N[chosen_N],
            self.history_N[chosen_N],
            self.before_N[chosen_N],
        )

    def as_before(self) -> "TrainedPart":
        """Returns the same parts, marked as those of an earlier run."""
        return TrainedPart(self.user_N, self.items_N, self.history_N, np.ones(len(self), bool))

    @classmethod
    def none(cls) -> "TrainedPart":
        """Returns an empty record."""
        return cls(
            np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.uint64), np.empty(0, bool)
        )

    @classmethod
    def together(cls, parts: list["TrainedPart"]) -> "TrainedPart":
        """Merges several records; parts that are in several of them are kept once."""
        columns = (
            np.concatenate([getattr(part, name) for part in (cls.none(), *parts)])
            for name in ("user_N", "items_N", "history_N", "before_N")
        )
        whole = cls(*columns)

        # In this order, equal parts with the same `before_N` are neighbours; the first is kept.
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
    """The users of a row group, with hashes of the first items of their histories.

    Attributes:
        first_user: the index of the first user in file order.
        user_U: uint64, the hash of each user's original id.
        lengths_U: the length of each user's history.
    """

    first_user: int
    user_U: np.ndarray
    lengths_U: np.ndarray
    _start_U: np.ndarray
    _sums: np.ndarray

    def of_first(self, user: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Returns uint64 hashes of the first items in some users' histories.

        Args:
            user: the index of each user in the row group.
            items: the number of first items to hash, for each of these users.
        """
        # Sums wrap around at 2^64, so the difference of two sums is exact.
        start = self._start_U[user]
        hashed: np.ndarray = self._sums[start + items] - self._sums[start]
        return hashed

    def matches(self, part: TrainedPart) -> tuple[np.ndarray, np.ndarray]:
        """Finds the users that are in both the row group and a record.

        Returns:
            (index in the row group, index in `part`): one pair for each part of such a user.
        """
        order = np.argsort(self.user_U, kind="stable")
        index = np.searchsorted(self.user_U[order], part.user_N)
        # An index after the end may be replaced by any other, as the hashes are compared below.
        index[index == len(order)] = 0

        user = order[index]
        known = self.user_U[user] == part.user_N
        return user[known], np.flatnonzero(known)


def pasts_of(data: PreparedData, share: Share) -> Iterator[Pasts]:
    """Yields the users of each row group that belongs to this rank."""
    item_I = hashes(data.catalogue(["item_id"])["item_id"])
    for group in data.row_groups[share.rank :: share.world]:
        yield _pasts(data, group, item_I)


def hashes(ids: pa.ChunkedArray) -> np.ndarray:
    """Returns uint64 hashes of original ids of any type."""
    # Ids are hashed as text, since their type may differ between data sets.
    texts = ids.cast(pa.string())
    digests = (
        blake2b(text.encode(), digest_size=8).digest()
        for chunk in texts.chunks
        for text in chunk.to_pylist()
    )
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def write_trained_part(file: Path, part: TrainedPart) -> None:
    """Writes a record to a file, completely or not at all."""
    columns = [part.user_N, part.items_N.astype(np.int32), part.history_N, part.before_N]
    with new_file(file) as partial:
        write_table(pa.table(columns, schema=_SCHEMA), partial)


def read_trained_part(file: Path) -> TrainedPart:
    """Reads a record from a file that `write_trained_part` wrote.

    Raises:
        UserError: the file cannot be read.
    """
    with readable(file, "put it back, or train again"):
        table = read_table(file, _SCHEMA.names).cast(_SCHEMA)
        return TrainedPart(*(table[name].to_numpy() for name in _SCHEMA.names))


def _pasts(data: PreparedData, group: RowGroup, item_I: np.ndarray) -> Pasts:
    """Hashes the histories of the users in a row group.

    Args:
        data: the prepared data set.
        group: the row group.
        item_I: the hash of each item's original id.
    """
    users = data.read_users(group)

    # Each interaction has a term that depends on its item and position, and the hash of the first
    # interactions is the sum of their terms. So prefix sums give the hash of any number of first
    # interactions.
    position = np.arange(len(users.items)) - np.repeat(users.starts[:-1], users.lengths)
    term = mix(item_I[users.items] + (position + 1).astype(np.uint64) * GOLDEN)
    sums = np.zeros(len(term) + 1, np.uint64)
    np.cumsum(term, out=sums[1:])

    return Pasts(
        group.first_user, hashes(data.user_ids(group)), users.lengths, users.starts[:-1], sums
    )
