"""A copy of a rank's item vectors that answers requests in one pass, by a C++ kernel.

`search.py` searches one item set after another with operations of PyTorch, which is fast for many
users. For a single request nearly all time is spent on calling these operations. The kernel takes
all item sets, the fusion and the best items together. It releases Python's lock, so threads do not
wait for each other.

A score is one chain of fused multiply-adds. So it depends on the query and on the item only, and
not on other users of the call, on threads or on ranks.

The copy takes as much memory as the vectors. Item sets with few candidates are copied once more.

    resident_blocks.py     how candidates are arranged
    resident_vectors.py    their vectors, as floats or as bytes
    resident_inputs.py     the fusion and the users of a call, in the form of the kernel

Shapes: B users, K paths, M items, d width, k results.
"""

import ctypes
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.ops.native import load_native
from torchrec_priors.retrieval.fusion import Fusion
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.item_filter import Filters
from torchrec_priors.retrieval.keys import encode
from torchrec_priors.retrieval.resident_blocks import LANES, Blocks
from torchrec_priors.retrieval.resident_inputs import FusionRule, Given, IndexStruct, address
from torchrec_priors.retrieval.resident_vectors import PackedBytes, pack_floats
from torchrec_priors.retrieval.search_types import Exclusions, Found, Queries

_SOURCE = Path(__file__).with_name("resident_native.cpp")


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
        self._rule: FusionRule | None = None
        positions_S = [index.positions(number).numpy() for number in range(len(index.paths_of_set))]
        dense = _dense(library, as_bytes=as_bytes)
        self._blocks = Blocks.of(len(index), positions_S, dense)
        self._bytes: PackedBytes | None = None
        self._packed: Tensor | None = None
        if as_bytes:
            self._bytes = PackedBytes.of(library, index, score, self._blocks.position)
        else:
            self._packed = pack_floats(library, index, score, self._blocks)

        self._mask_pointers = np.array([address(mask) for mask in self._blocks.masks], np.uint64)
        self._item_C = np.ascontiguousarray(index.item_C.numpy())
        paths = [paths.stop - paths.start for paths in index.paths_of_set]
        self._set_of_path = np.repeat(np.arange(len(paths)), paths)
        self._log_weight_S = np.array(index.log_weight_S, np.float64)
        self._index = self._struct()

    def _struct(self) -> IndexStruct:
        """Returns the index in the form of the kernel."""
        blocks = self._blocks
        of_bytes = self._bytes
        return IndexStruct(
            0 if self._packed is None else self._packed.data_ptr(),
            *map(address, (blocks.position, self._item_C, blocks.block_at, blocks.list_of_set)),
            *map(address, (self._mask_pointers, self._set_of_path)),
            *((0,) * 5 if of_bytes is None else of_bytes.pointers),
            blocks.candidates,
            self.index.shard.rows.shape[1] if self._packed is None else self._packed.shape[1],
            blocks.tile,
            blocks.tiles,
            len(blocks.masks),
            len(self._set_of_path),
            0.0 if of_bytes is None else of_bytes.rounding,
            0.0 if of_bytes is None else of_bytes.length,
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
        return packed.nbytes + self._blocks.position.nbytes

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
        given = Given(self._shape, queries, excluded, filters, k, threads)
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
        given = Given(self._shape, queries, excluded or Exclusions.none(), None, 1)
        self._library.resident_log_sums(
            ctypes.byref(self._index),
            ctypes.byref(given.users),
            ctypes.c_void_p(address(self._log_weight_S)),
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
            return self._bytes.vectors(position)
        place = torch.from_numpy(position)
        return self._packed[place // LANES, :, place % LANES]

    def _rule_of(self, fusion: Fusion) -> FusionRule:
        """Returns a fusion for the kernel. The last one is kept, as all requests have the same."""
        rule = self._rule
        if rule is None or rule.fusion is not fusion:
            rule = FusionRule(self.index, fusion)
            self._rule = rule
        return rule


def _dense(library: ctypes.CDLL, *, as_bytes: bool) -> int:
    """Returns D: a set with more than 1 / D of the candidates is searched among all of them."""
    return int(library.resident_dense(ctypes.c_int64(as_bytes)))
