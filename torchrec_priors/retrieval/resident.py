"""A copy of a rank's item vectors that answers requests in one pass, by a C++ kernel.

`search.py` searches one item set after another with operations of PyTorch, which is fast for many
users. For a single request nearly all time is spent on calling these operations. The kernel takes
all item sets, the fusion and the best items together. It releases Python's lock, so threads do not
wait for each other.

A score is one chain of fused multiply-adds. So it depends on the query and on the item only, and
not on other users of the call, on threads or on ranks.

The copy takes as much memory as the vectors. Item sets with few candidates are copied once more,
so that their candidates are neighbours. Larger sets are searched among all candidates, with a mask.

Shapes: B users, K paths, S item sets, C candidates, R branches, d width, k results.
"""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.ops.native import load_native
from torchrec_priors.retrieval.fusion import Fusion
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.index_parts import Tile
from torchrec_priors.retrieval.int8_search import Quantised
from torchrec_priors.retrieval.item_filter import Filters, of_users
from torchrec_priors.retrieval.keys import encode
from torchrec_priors.retrieval.search_types import Exclusions, Found, Queries

_SOURCE = Path(__file__).with_name("resident_native.cpp")
_LANES = 16  # candidates of a block
# Candidates of a tile. Each item set begins a block in each tile, so tiles of large catalogues are
# larger.
_TILE = 1 << 11
_LARGE_TILE = 1 << 14
_LARGE = 1 << 16  # candidates of a catalogue with large tiles
_PACKED_AT_ONCE = 1 << 16  # vectors
_KINDS = {"max": 0, "hierarchical": 1, "mean": 2, "inverse_variance": 2}


class _Index(ctypes.Structure):
    """The struct `Index` of the C++ source."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("packed", "position", "item", "block_at")),
        *((name, ctypes.c_void_p) for name in ("list_of_set", "mask", "set_of_path")),
        *((name, ctypes.c_void_p) for name in ("bytes", "step", "rows", "row", "divisor")),
        *((name, ctypes.c_int64) for name in ("candidates", "dim", "tile", "tiles")),
        *((name, ctypes.c_int64) for name in ("sets", "paths")),
        *((name, ctypes.c_float) for name in ("rounding", "length")),
    )


class _Rule(ctypes.Structure):
    """The struct `Rule` of the C++ source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("kind", "calibrated", "blocks")),
        *((name, ctypes.c_void_p) for name in ("block_of_path", "weight_of_path")),
        *((name, ctypes.c_void_p) for name in ("branch_of_path", "log_alternatives")),
    )


class _Users(ctypes.Structure):
    """The struct `Users` of the C++ source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("users", "k", "threads")),
        *((name, ctypes.c_void_p) for name in ("vector", "bias", "seen", "first_seen")),
        *((name, ctypes.c_void_p) for name in ("allow", "deny")),
    )


@dataclass(frozen=True)
class _List:
    """Candidates in blocks.

    Attributes:
        position: int32 [blocks x lanes], ascending; -1 for a lane without candidate.
        block_at: int64 [tiles + 1], the first block of each tile.
    """

    position: np.ndarray
    block_at: np.ndarray


@dataclass(frozen=True)
class _Bytes:
    """The vectors of all lists with a byte for each number (`int8_search.py`).

    Attributes:
        packed: int8 [blocks, quads, lanes, 4], four dimensions of a candidate side by side.
        step: float32 [blocks x lanes], the step of each vector; 0 for a lane without candidate.
        rows_Rd: the vectors as they are stored.
        row_C: the row of each candidate.
        divisor_C: what a row is divided by to get the vector; None for 1.
        rounding, length: see `Quantised`.
    """

    packed: Tensor
    step: Tensor
    rows_Rd: Tensor
    row_C: np.ndarray
    divisor_C: Tensor | None
    rounding: float
    length: float

    @classmethod
    def of(
        cls, library: ctypes.CDLL, index: GroupIndex, score: Score, position: np.ndarray
    ) -> "_Bytes":
        """Packs the bytes of candidates.

        Args:
            library: the kernel.
            index: the index.
            score: turns stored vectors into the vectors that scores are computed with.
            position: int32 [blocks x lanes], the candidate of each lane; -1 for none.
        """
        rows_Rd = index.shard.rows.contiguous()
        quantised = Quantised.of(rows_Rd, score)
        row_C = index.row_of_candidate
        divisor_C = None
        if score.kind == "cosine":
            divisor_C = _lengths(library, rows_Rd)[torch.from_numpy(row_C)]

        quads = -(-rows_Rd.shape[1] // 4)
        packed = torch.zeros(len(position) // _LANES, quads, _LANES, 4, dtype=torch.int8)
        step = torch.zeros(len(position))
        for first in range(0, len(position), _PACKED_AT_ONCE):
            part = slice(first, first + _PACKED_AT_ONCE)
            held = torch.from_numpy(np.flatnonzero(position[part] >= 0))
            row = torch.from_numpy(row_C[position[part][held.numpy()]])
            padded = torch.zeros(len(position[part]), 4 * quads, dtype=torch.int8)
            padded[held, : rows_Rd.shape[1]] = quantised.byte_Rd[row]
            step[part][held] = quantised.step_R[row]
            blocks = slice(first // _LANES, first // _LANES + len(padded) // _LANES)
            packed[blocks] = padded.view(-1, _LANES, quads, 4).transpose(1, 2)
        rounding, length = quantised.rounding, quantised.length
        return cls(packed, step, rows_Rd, row_C, divisor_C, rounding, length)

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.step.nbytes


class Resident:
    """The candidates of an index, packed for the kernel.

    Attributes:
        index: the index.
        nbytes: the memory of the packed vectors and positions.
    """

    def __init__(
        self, index: GroupIndex, score: Score, library: ctypes.CDLL, *, as_bytes: bool
    ) -> None:
        """Use `of` instead, which loads the library."""
        self.index = index
        self._library = library
        self._rule: _FusionRule | None = None
        candidates = len(index)
        tile = _LARGE_TILE if candidates > _LARGE else _TILE

        dense = _dense(library, as_bytes=as_bytes)
        # List 0 has all candidates. The vectors of other lists are copied from it.
        lists = [_list_of(np.arange(candidates), candidates, tile)]
        self._list_of_set = np.zeros(len(index.paths_of_set), np.int64)
        masks: list[np.ndarray | None] = []
        for number in range(len(index.paths_of_set)):
            position = index.positions(number).numpy()
            mask = None
            if len(position) * dense < candidates:
                self._list_of_set[number] = len(lists)
                lists.append(_list_of(position, candidates, tile))
            elif len(position) < candidates:
                mask = _mask_of(position, len(lists[0].position))
            masks.append(mask)

        # All lists are one array of blocks.
        firsts = np.cumsum([0, *(int(part.block_at[-1]) for part in lists)])
        block_at = [part.block_at + first for part, first in zip(lists, firsts, strict=False)]
        self._block_at = np.stack(block_at)
        self._position = np.concatenate([part.position for part in lists])
        self._bytes = _Bytes.of(library, index, score, self._position) if as_bytes else None
        self._packed = None if as_bytes else self._pack(lists, score)
        self._masks = masks
        self._mask_pointers = np.array([_address(mask) for mask in masks], np.uint64)
        self._item_C = np.ascontiguousarray(index.item_C.numpy())

        paths = [paths.stop - paths.start for paths in index.paths_of_set]
        self._set_of_path = np.repeat(np.arange(len(paths)), paths)
        self._log_weight_S = np.array(index.log_weight_S, np.float64)
        packed_bytes = self._bytes
        of_bytes: tuple[Any, ...] = (0, 0, 0, 0, 0)
        if packed_bytes is not None:
            of_bytes = (
                packed_bytes.packed.data_ptr(),
                packed_bytes.step.data_ptr(),
                packed_bytes.rows_Rd.data_ptr(),
                _address(packed_bytes.row_C),
                0 if packed_bytes.divisor_C is None else packed_bytes.divisor_C.data_ptr(),
            )
        self._index = _Index(
            0 if self._packed is None else self._packed.data_ptr(),
            *map(_address, (self._position, self._item_C, self._block_at, self._list_of_set)),
            *map(_address, (self._mask_pointers, self._set_of_path)),
            *of_bytes,
            candidates,
            index.shard.rows.shape[1] if self._packed is None else self._packed.shape[1],
            tile,
            len(lists[0].block_at) - 1,
            len(paths),
            len(self._set_of_path),
            0.0 if packed_bytes is None else packed_bytes.rounding,
            0.0 if packed_bytes is None else packed_bytes.length,
        )

    @classmethod
    @torch.no_grad()
    def of(cls, index: GroupIndex, score: Score, *, as_bytes: bool = False) -> "Resident | None":
        """Packs the candidates of an index.

        Args:
            index: the index.
            score: turns stored vectors into the vectors that scores are computed with.
            as_bytes: whether to pack a byte for each number. The search then takes a fourth of the
                memory and less time, and finds the same; but its fusion must be max, and there are
                no `log_sums`. It has no effect on scores of other kinds than `Score`.

        Returns:
            None if there is no C++ compiler, or if the vectors are not on a CPU. Then requests are
            answered by the operations of `search.py`.
        """
        if index.item_C.device.type != "cpu" or index.shard.rows.dtype != torch.float32:
            return None
        library = load_native(_SOURCE)
        if library is None:
            return None
        return cls(index, score, library, as_bytes=as_bytes and type(score) is Score)

    @property
    def _shape(self) -> tuple[int, int]:
        """K and d."""
        return len(self._set_of_path), self._index.dim

    @property
    def nbytes(self) -> int:
        packed = self._packed if self._bytes is None else self._bytes
        assert packed is not None
        return packed.nbytes + self._position.nbytes

    def search(
        self,
        queries: Queries,
        excluded: Exclusions,
        filters: Filters | None,
        k: int,
        fusion: Fusion,
        threads: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Finds the same as `find`, in the form in which lists are merged.

        Returns:
            Keys (`keys.py`) and paths (int32): [B, k] each. Shorter lists are padded with `NOTHING`
            keys.
        """
        found = self.find(queries, excluded, filters, k, fusion, threads)
        return encode(found.score_Bk, found.row_Bk), found.path_Bk.int()

    def find(
        self,
        queries: Queries,
        excluded: Exclusions,
        filters: Filters | None,
        k: int,
        fusion: Fusion,
        threads: int = 1,
    ) -> Found:
        """Finds the k best candidates of each user, without repeats.

        Args:
            queries: the queries of the users.
            excluded: items that must not be found.
            filters: the items that may be found, for each user.
            k: the number of items for each user.
            fusion: how the scores of an item are combined into one.
            threads: the most threads, which search different tiles. They do not change the result.
        """
        users = len(queries)
        assert self._bytes is None or fusion.kind == "max"
        score_Bk = torch.empty(users, k)
        item_Bk = torch.empty(users, k, dtype=torch.int64)
        path_Bk = torch.empty(users, k, dtype=torch.int64)
        # The rule is held until the call ends, as another thread may replace `_rule`.
        rule = self._rule_of(fusion)
        given = _Given(self._shape, queries, excluded, filters, k, threads)
        self._library.resident_search(
            ctypes.byref(self._index),
            ctypes.byref(rule.rule),
            ctypes.byref(given.users),
            *(ctypes.c_void_p(out.data_ptr()) for out in (score_Bk, item_Bk, path_Bk)),
        )
        return Found(item_Bk, score_Bk, path_Bk)

    def log_sums(self, queries: Queries, excluded: Exclusions | None) -> Tensor:
        """Computes log sum exp(q_k . e_i) over the candidates i in Omega_k, in double precision.

        Args:
            queries: the queries; a bias of -inf closes a path, and other biases are not used.
            excluded: the items that are left out of a user's sums; None for none.

        Returns:
            [B, K]; -inf for closed paths, and for paths without candidates.
        """
        assert self._packed is not None
        sums_BK = torch.empty(queries.bias_BK.shape, dtype=torch.float64)
        given = _Given(self._shape, queries, excluded or Exclusions.none(), None, 1)
        self._library.resident_log_sums(
            ctypes.byref(self._index),
            ctypes.byref(given.users),
            ctypes.c_void_p(_address(self._log_weight_S)),
            ctypes.c_void_p(sums_BK.data_ptr()),
        )
        return sums_BK

    def scores(self, vectors_Md: Tensor, vector_Kd: Tensor) -> Tensor:
        """Returns the scores of vectors for all queries of a user, [M, K], as `search` has them."""
        vectors_Md = vectors_Md.contiguous()
        vector_Kd = vector_Kd.contiguous()
        score_MK = torch.empty(len(vectors_Md), len(vector_Kd))
        self._library.resident_scores(
            ctypes.c_void_p(vectors_Md.data_ptr()),
            ctypes.c_int64(len(vectors_Md)),
            ctypes.c_void_p(vector_Kd.data_ptr()),
            ctypes.c_int64(len(vector_Kd)),
            ctypes.c_int64(vector_Kd.shape[1]),
            ctypes.c_void_p(score_MK.data_ptr()),
        )
        return score_MK

    def vectors(self, items: np.ndarray) -> Tensor:
        """Returns the vectors of some candidates, given by their row ids: [M, d]."""
        index, position = self.index.places(items)
        assert len(index) == len(items), "not all items are candidates of this rank"
        if self._packed is None:
            assert self._bytes is not None
            row = torch.from_numpy(self._bytes.row_C[position])
            vectors_Md = self._bytes.rows_Rd.index_select(0, row)
            if self._bytes.divisor_C is None:
                return vectors_Md
            return vectors_Md / self._bytes.divisor_C[torch.from_numpy(position), None]
        place = torch.from_numpy(position)
        return self._packed[place // _LANES, :, place % _LANES]

    def _rule_of(self, fusion: Fusion) -> "_FusionRule":
        """Returns a fusion for the kernel. The last one is kept, as all requests have the same."""
        rule = self._rule
        if rule is None or rule.fusion is not fusion:
            rule = _FusionRule(self.index, fusion)
            self._rule = rule
        return rule

    def _pack(self, lists: list[_List], score: Score) -> Tensor:
        """Copies the vectors of all lists into blocks, [blocks, d, lanes]."""
        blocks = sum(int(part.block_at[-1]) for part in lists)
        # The vectors for scoring may have another width than the rows.
        width = score.items(self.index.shard.rows[:1]).shape[1]
        packed = torch.empty(blocks, width, _LANES)
        candidates = len(self.index)

        # The vectors of some candidates at a time are turned into those for scoring.
        step = _PACKED_AT_ONCE
        for first in range(0, candidates, step):
            size = min(step, candidates - first)
            vectors = self.index.vectors(Tile(first, size, []))
            divisor = None
            # The lengths of `F.normalize` may depend on the number of vectors, in the last bit.
            if type(score) is Score and score.kind == "cosine":
                divisor = _lengths(self._library, vectors)
            else:
                vectors = score.items(vectors)
            local = np.full(-(-size // _LANES) * _LANES, -1, np.int64)
            local[:size] = np.arange(size)
            self._copy(vectors, local, divisor, packed[first // _LANES :])

        done = int(lists[0].block_at[-1])
        for part in lists[1:]:
            for first in range(0, len(part.position), step):
                some = part.position[first : first + step].astype(np.int64)
                wanted = np.flatnonzero(some >= 0)
                place = torch.from_numpy(some[wanted])
                vectors = packed[place // _LANES, :, place % _LANES].contiguous()
                local = np.full(len(some), -1, np.int64)
                local[wanted] = np.arange(len(wanted))
                self._copy(vectors, local, None, packed[done:])
                done += len(some) // _LANES
        return packed

    def _copy(self, vectors: Tensor, row: np.ndarray, divisor: Tensor | None, into: Tensor) -> None:
        """Copies vectors into blocks; `row` has the vector of each lane.

        If there is a divisor for each vector, the vectors are divided by it.
        """
        vectors = vectors.contiguous()
        self._library.resident_pack(
            ctypes.c_void_p(vectors.data_ptr()),
            ctypes.c_void_p(_address(row)),
            ctypes.c_void_p(None if divisor is None else divisor.data_ptr()),
            ctypes.c_int64(len(row) // _LANES),
            ctypes.c_int64(vectors.shape[1]),
            ctypes.c_void_p(into.data_ptr()),
        )


class _FusionRule:
    """A fusion in the form of the kernel. It holds the arrays of its pointers."""

    def __init__(self, index: GroupIndex, fusion: Fusion) -> None:
        self.fusion = fusion
        block_K = branch_K = alternatives_RC = weight_K = None
        blocks = 1
        if fusion.kind == "hierarchical":
            assert fusion.block_K is not None
            block_K = fusion.block_K.int().numpy()
            blocks = int(block_K.max()) + 1
        if fusion.kind == "inverse_variance":
            assert fusion.variance_K is not None
            weight_K = fusion.variance_K.double().clamp(min=1e-12).reciprocal().numpy()
        if _KINDS[fusion.kind] == _KINDS["mean"] and fusion.calibrated:
            alternatives_RC = index.log_alternatives_RT.double().contiguous().numpy()
            if fusion.branch_K is not None:
                branch_K = fusion.branch_K.numpy()
        self.held = [block_K, weight_K, branch_K, alternatives_RC]
        addresses = map(_address, self.held)
        self.rule = _Rule(_KINDS[fusion.kind], fusion.calibrated, blocks, *addresses)


class _Given:
    """The users of a call, in the form of the kernel. It holds the arrays of its pointers."""

    def __init__(
        self,
        shape: tuple[int, int],
        queries: Queries,
        excluded: Exclusions,
        filters: Filters | None,
        k: int,
        threads: int = 1,
    ) -> None:
        """
        Args:
            shape: K and d of the index.
            queries, excluded, filters, k, threads: as for `Resident.find`.
        """
        users = len(queries)
        self.vector_BKd = queries.vector_BKd.contiguous()
        assert self.vector_BKd.shape[1:] == shape, "these are not queries for these vectors"
        self.bias_BK = queries.bias_BK.contiguous()
        self.seen, self.first_seen = excluded.by_user(users)
        self.filters = of_users(filters, users)
        self.allow = np.array([_address(part.allow) for part in self.filters], np.uint64)
        self.deny = np.array([_address(part.deny) for part in self.filters], np.uint64)
        self.users = _Users(
            users,
            k,
            threads,
            self.vector_BKd.data_ptr(),
            self.bias_BK.data_ptr(),
            *map(_address, (self.seen, self.first_seen, self.allow, self.deny)),
        )


def _dense(library: ctypes.CDLL, *, as_bytes: bool) -> int:
    """Returns D: a set with more than 1 / D of the candidates is searched among all of them."""
    return int(library.resident_dense(ctypes.c_int64(as_bytes)))


def _lengths(library: ctypes.CDLL, vectors_Rd: Tensor) -> Tensor:
    """Returns the lengths of vectors, by which cosines divide them: [R]."""
    vectors_Rd = vectors_Rd.contiguous()
    lengths_R = torch.empty(len(vectors_Rd))
    library.resident_lengths(
        ctypes.c_void_p(vectors_Rd.data_ptr()),
        ctypes.c_int64(len(vectors_Rd)),
        ctypes.c_int64(vectors_Rd.shape[1]),
        ctypes.c_void_p(lengths_R.data_ptr()),
    )
    return lengths_R


def _list_of(position: np.ndarray, candidates: int, tile: int) -> _List:
    """Arranges candidates in blocks; each tile begins with a new block.

    Args:
        position: the positions of the candidates, ascending.
        candidates: the number of all candidates.
        tile: the number of candidates of a tile.
    """
    tile_of = position // tile
    counts = np.bincount(tile_of, minlength=max(1, -(-candidates // tile)))
    block_at = np.concatenate([[0], np.cumsum(-(-counts // _LANES))])
    within = np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)

    lanes = np.full(block_at[-1] * _LANES, -1, np.int32)
    lanes[block_at[tile_of] * _LANES + within] = position
    return _List(lanes, block_at)


def _mask_of(position: np.ndarray, lanes: int) -> np.ndarray:
    """Returns the lanes of list 0 that hold some candidates, a bit each: uint16 [blocks]."""
    is_in = np.zeros(lanes, bool)
    is_in[position] = True
    mask: np.ndarray = np.packbits(is_in, bitorder="little").view(np.uint16)
    return mask


def _address(array: np.ndarray | None) -> int:
    if array is None:
        return 0
    assert array.flags.c_contiguous
    return array.ctypes.data
