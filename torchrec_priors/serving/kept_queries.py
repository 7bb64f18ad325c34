"""Keeps the queries of users who were answered before, so that their histories are encoded once.

Most of the time of an answer is spent on the user's state and on what follows from it alone: the
queries of all heads, their calibration, and the shares of the repeat head. All of it depends on the
user's history and groups, and on nothing else of the request. So it may be kept, and an answer from
it is the same to the last bit. Levers, lists and k are applied afterwards.

Shapes: B users, K paths.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import torch

from torchrec_priors.errors import UserError
from torchrec_priors.retrieval.search_types import Queries, Repeats
from torchrec_priors.serving.known_users import KnownUser

# About what Python and PyTorch need for an entry in addition to its numbers: six small objects.
_BESIDE = 1 << 10  # bytes


class KeptQueries:
    """The queries of users, within a number of bytes. Those used longest ago are dropped.

    Any thread may call it. It belongs to one model. With several ranks, every rank must make the
    same calls; then all ranks keep the same users.

    Attributes:
        hits: how many users were found.
        misses: how many were not. Nothing is counted while the limit is 0.
        nbytes: the memory that the queries take.
    """

    def __init__(self, limit: int = 0) -> None:
        """
        Args:
            limit: the largest number of bytes; 0 to keep nothing.
        """
        self.hits = 0
        self.misses = 0
        self.nbytes = 0
        self._limit = 0
        self._kept: OrderedDict[bytes, Queries] = OrderedDict()
        self._lock = Lock()
        self.set_limit(limit)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._limit > 0

    def set_limit(self, limit: int) -> None:
        """Sets the largest number of bytes, and drops what is too much.

        Raises:
            UserError: the number is negative.
        """
        if limit < 0:
            raise UserError(f"{limit:,} bytes for the queries of users: give 0 or more")
        with self._lock:
            self._limit = limit
            self._drop()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Queries]:
        """Returns what is kept of some users.

        Args:
            keys: their keys (see `key_of`).

        Returns:
            The queries of each key that was found, as those of a batch of one user.
        """
        found: dict[bytes, Queries] = {}
        with self._lock:
            for key in keys:
                kept = self._kept.get(key)
                if kept is None:
                    self.misses += 1
                    continue
                self.hits += 1
                self._kept.move_to_end(key)
                found[key] = kept
        return found

    def keep(self, key: bytes, queries: Queries) -> None:
        """Keeps the queries of a user.

        Args:
            key: the key.
            queries: the queries of a batch of this one user. They must not be changed afterwards.
        """
        with self._lock:
            # Another thread may have computed the same.
            before = self._kept.pop(key, None)
            if before is not None:
                self.nbytes -= _bytes(before)
            self._kept[key] = queries
            self.nbytes += _bytes(queries)
            self._drop()

    def _drop(self) -> None:
        """Drops the users who were asked for longest ago, until the limit is met."""
        while self.nbytes > self._limit:
            _, left = self._kept.popitem(last=False)
            self.nbytes -= _bytes(left)


def key_of(user: KnownUser) -> bytes:
    """Returns a value that two users share only if their queries are the same.

    It is the digest of the history with its columns, of the user's number in the data set, which
    decides on the stored groups, and of the groups that the request gives.
    """
    history = user.history
    arrays = [("", history.items), *sorted(history.columns.items())]
    # The sizes separate what follows, so different users have different texts.
    about = [(name, values.dtype.str, len(values)) for name, values in arrays]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((history.user, sorted(user.groups.items()), about)).encode())
    for _, values in arrays:
        digest.update(values.tobytes())
    return digest.digest()


def joined(parts: Sequence[Queries]) -> Queries:
    """Returns the queries of several batches as those of one batch."""
    if len(parts) == 1:
        return parts[0]
    vector_BKd = torch.cat([part.vector_BKd for part in parts])
    bias_BK = torch.cat([part.bias_BK for part in parts])

    repeats = []
    users = 0
    for part in parts:
        if part.repeats is not None:
            repeats.append((part.repeats, users))
        users += len(part)
    if not repeats:
        return Queries(vector_BKd, bias_BK)
    return Queries(
        vector_BKd,
        bias_BK,
        Repeats(
            torch.cat([one.user_R + first for one, first in repeats]),
            torch.cat([one.row_R for one, _ in repeats]),
            torch.cat([one.score_R for one, _ in repeats]),
        ),
    )


def _bytes(queries: Queries) -> int:
    """Returns the memory of the queries of a user."""
    tensors = [queries.vector_BKd, queries.bias_BK]
    if queries.repeats is not None:
        repeats = queries.repeats
        tensors += [repeats.user_R, repeats.row_R, repeats.score_R]
    return _BESIDE + sum(tensor.untyped_storage().nbytes() for tensor in tensors)
