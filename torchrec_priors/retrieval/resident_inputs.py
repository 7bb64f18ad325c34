"""What the kernel of requests takes: its structs, a fusion, and the users of a call.

The structs have the fields of `resident_native.cpp`. Whoever makes a struct keeps the arrays that
it points to.

Shapes: B users, K paths, d width.
"""

import ctypes

import numpy as np

from torchrec_priors.retrieval.fusion import Fusion
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.item_filter import Filters, of_users
from torchrec_priors.retrieval.search_types import Exclusions, Queries

_KINDS = {"max": 0, "hierarchical": 1, "mean": 2, "inverse_variance": 2}


class IndexStruct(ctypes.Structure):
    """The struct `Index` of the C++ source."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("packed", "position", "item", "block_at")),
        *((name, ctypes.c_void_p) for name in ("list_of_set", "mask", "set_of_path")),
        *((name, ctypes.c_void_p) for name in ("bytes", "step", "rows", "row", "divisor")),
        *((name, ctypes.c_int64) for name in ("candidates", "dim", "tile", "tiles")),
        *((name, ctypes.c_int64) for name in ("sets", "paths")),
        *((name, ctypes.c_float) for name in ("rounding", "length")),
    )


class RuleStruct(ctypes.Structure):
    """The struct `Rule` of the C++ source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("kind", "calibrated", "blocks")),
        *((name, ctypes.c_void_p) for name in ("block_of_path", "weight_of_path")),
        *((name, ctypes.c_void_p) for name in ("branch_of_path", "log_alternatives")),
    )


class UsersStruct(ctypes.Structure):
    """The struct `Users` of the C++ source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("users", "k", "threads")),
        *((name, ctypes.c_void_p) for name in ("vector", "bias", "seen", "first_seen")),
        *((name, ctypes.c_void_p) for name in ("allow", "deny")),
    )


class FusionRule:
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
        addresses = map(address, self.held)
        self.rule = RuleStruct(_KINDS[fusion.kind], fusion.calibrated, blocks, *addresses)


class Given:
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
        self.allow = np.array([address(part.allow) for part in self.filters], np.uint64)
        self.deny = np.array([address(part.deny) for part in self.filters], np.uint64)
        self.users = UsersStruct(
            users,
            k,
            threads,
            self.vector_BKd.data_ptr(),
            self.bias_BK.data_ptr(),
            *map(address, (self.seen, self.first_seen, self.allow, self.deny)),
        )


def address(array: np.ndarray | None) -> int:
    """Returns where the numbers of an array are; 0 for None."""
    if array is None:
        return 0
    assert array.flags.c_contiguous
    return array.ctypes.data
