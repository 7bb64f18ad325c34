"""Finds ids in a large list without going through the list.

The ids are hashed once. The hashes are kept in order, each with its place in the list: 12 bytes for
an id. An id is found by a binary search for its hash, and then compared itself.
"""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.common.splitmix import GOLDEN, mix, mix_one

_GOLDEN = int(GOLDEN)
_AT_ONCE = 1 << 16  # ids that are hashed together
_WORD = 8  # bytes that are hashed together
_FEW = 32  # ids that are compared one by one


class IdIndex:
    """The places of ids in a list, by their texts.

    Attributes:
        texts: the ids as texts.
    """

    def __init__(self, texts: pa.Array) -> None:
        """
        Args:
            texts: the ids as texts, all different, without nulls.
        """
        self.texts = texts
        hash_I = text_hashes(texts)
        order = np.argsort(hash_I, kind="stable")
        self._hash = hash_I[order]
        self._place_of = order.astype(np.int32)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def nbytes(self) -> int:
        return self._hash.nbytes + self._place_of.nbytes

    def places(self, wanted: pa.Array) -> np.ndarray:
        """Returns the place of each of `wanted` in the list, int64; -1 if it is not there.

        >>> IdIndex(pa.array(["a", "b"])).places(pa.array(["b", "x", "b"])).tolist()
        [1, -1, 1]
        """
        # For a few ids this takes less time than calls of NumPy.
        if len(wanted) <= _FEW:
            return np.array([self._place(text) for text in wanted.to_pylist()], np.int64)

        found = np.full(len(wanted), -1, np.int64)
        hash_W = text_hashes(wanted)
        at_W = np.searchsorted(self._hash, hash_W)

        # Ids with equal hashes are neighbours. They are compared one after another.
        open_W = np.arange(len(wanted))
        while True:
            exists = at_W[open_W] < len(self._hash)
            open_W = open_W[exists]
            open_W = open_W[self._hash[at_W[open_W]] == hash_W[open_W]]
            if not len(open_W):
                return found

            place = self._place_of[at_W[open_W]].astype(np.int64)
            is_same = self._are(place, wanted, open_W)
            found[open_W[is_same]] = place[is_same]
            open_W = open_W[~is_same]
            at_W[open_W] += 1

    def _place(self, text: str | None) -> int:
        """Returns the place of one id; -1 if it is not there."""
        if text is None:
            return -1
        hashed = np.uint64(text_hash(text))
        at = int(self._hash.searchsorted(hashed))
        while at < len(self._hash) and self._hash[at] == hashed:
            place = int(self._place_of[at])
            if self.texts[place].as_py() == text:
                return place
            at += 1
        return -1

    def _are(self, place: np.ndarray, wanted: pa.Array, number: np.ndarray) -> np.ndarray:
        """Returns bool, whether the ids at some places are those of `wanted` at some numbers."""
        same = pc.equal(self.texts.take(pa.array(place)), wanted.take(pa.array(number)))
        is_same: np.ndarray = same.to_numpy(zero_copy_only=False).astype(bool)
        return is_same


def text_hash(text: str) -> int:
    """Returns the hash of one text: that of `text_hashes`, by Python's integers."""
    data = text.encode()
    hashed = len(data)
    for first in range(0, len(data), _WORD):
        word = data[first : first + _WORD].ljust(_WORD, b"\0")
        hashed = mix_one(hashed * _GOLDEN + int.from_bytes(word, sys.byteorder))
    return mix_one(hashed + _GOLDEN)


def text_hashes(texts: pa.Array) -> np.ndarray:
    """Returns a hash of each text, uint64. It depends on nothing but the text (splitmix64)."""
    hashes = np.empty(len(texts), np.uint64)
    if not len(texts):
        return hashes

    _, offsets_buffer, data_buffer = texts.buffers()
    starts = np.frombuffer(offsets_buffer, np.int32)[texts.offset :][: len(texts) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)
    lengths = np.diff(starts)

    # Texts of one length are a matrix of bytes, whose columns are hashed one after another.
    order = np.argsort(lengths, kind="stable")
    bounds = np.flatnonzero(np.diff(lengths[order])) + 1
    for same in np.split(order, bounds):
        length = int(lengths[same[0]])
        for first in range(0, len(same), _AT_ONCE):
            some = same[first : first + _AT_ONCE]
            padded = np.zeros((len(some), -(-length // _WORD) * _WORD), np.uint8)
            padded[:, :length] = data[starts[some][:, None] + np.arange(length)]
            hashed = np.full(len(some), length, np.uint64)
            for word in padded.view(np.uint64).T:
                hashed = mix(hashed * GOLDEN + word)
            hashes[some] = mix(hashed + GOLDEN)
    return hashes
