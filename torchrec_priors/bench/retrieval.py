"""Times full-catalogue retrieval: our search, and a reference that computes all scores.

The reference takes users in chunks, so that the scores of a chunk fit into 4 GiB.

Suffixes of names: B users, K heads, S item sets, V items of the catalogue, k items of a list, d
width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.bench.limits import Products
from torchrec_priors.bench.shapes import Shape
from torchrec_priors.bench.timed import Timed, peak_bytes, repeat, repeat_beside
from torchrec_priors.config import parse
from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.heads.score import Score
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_tree
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import join
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.int8_search import Quantised
from torchrec_priors.retrieval.search import search
from torchrec_priors.retrieval.search_types import Exclusions, Found, Queries
from torchrec_priors.settings.run_config import RunConfig

_CHUNK_BYTES = 4 << 30
_STEPS = 256.0  # numbers are rounded to multiples of 1 / _STEPS
_SEEN = 50  # items of each user that are not recommended


def time_ours(shape: Shape, data: Path, repeats: int, changes: dict[str, Any]) -> Timed:
    """Times `search` as evaluation and serving call it."""
    config = parse(shape.config(changes))
    tree, table_Vd, queries, excluded = _inputs(shape, data, config)
    with join():
        index = GroupIndex(tree, Shard(table_Vd, 0))
        score = Score("dot")
        products = Products()
        before = peak_bytes()
        quantised = None
        if config.evaluation.tiles == "int8":
            quantised = Quantised.of(table_Vd, score)

        def run(_: int) -> float:
            found = search(index, score, queries, excluded, shape.top, quantised=quantised)
            return _checksum(found.row_Bk)

        seconds, checksums, rates = repeat_beside(run, repeats, products.rate)

    peak = peak_bytes()
    return Timed(seconds, checksums, peak, len(queries), flops(shape, tree), rates, peak - before)


@contextmanager
def runner(shape: Shape, data: Path, changes: dict[str, Any]) -> Iterator[Callable[[int], Found]]:
    """Yields a function that searches once. Its argument, the number of the search, is not used."""
    config = parse(shape.config(changes))
    tree, table_Vd, queries, excluded = _inputs(shape, data, config)
    with join():
        index = GroupIndex(tree, Shard(table_Vd, 0))
        score = Score("dot")
        yield lambda _: search(index, score, queries, excluded, shape.top)


@torch.inference_mode()
def time_reference(shape: Shape, data: Path, repeats: int, changes: dict[str, Any]) -> Timed:
    """Times the plain way to search.

    It scores every item with every head and masks the items outside of the head's group. Then it
    takes the best head of each item, and the best items.
    """
    tree, table_Vd, queries, excluded = _inputs(shape, data, parse(shape.config(changes)))
    member_SV = torch.zeros(tree.item_sets, shape.items, dtype=torch.bool)
    for number, rows in enumerate(tree.eligible(0, shape.items)):
        member_SV[number, torch.from_numpy(rows)] = True
    sets_K = torch.tensor(tree.item_set_K)
    # The number of users in a chunk.
    users = max(1, _CHUNK_BYTES // (4 * len(sets_K) * shape.items))

    before = peak_bytes()

    def run(_: int) -> float:
        best = []
        for first in range(0, len(queries), users):
            chunk = queries.vector_BKd[first : first + users]
            score_BKV = (chunk.flatten(0, 1) @ table_Vd.T).unflatten(0, chunk.shape[:2])
            for path, number in enumerate(sets_K.tolist()):
                score_BKV[:, path].masked_fill_(~member_SV[number], -torch.inf)

            score_BV = score_BKV.amax(1)
            in_chunk = (excluded.user >= first) & (excluded.user < first + users)
            score_BV[excluded.user[in_chunk] - first, excluded.row[in_chunk]] = -torch.inf
            best.append(_ties_by_row(*score_BV.topk(shape.top)))
        return _checksum(torch.cat(best))

    seconds, checksums = repeat(run, repeats)
    peak = peak_bytes()
    return Timed(seconds, checksums, peak, len(queries), extra_bytes=peak - before)


def flops(shape: Shape, tree: PriorTree) -> float:
    """Returns the FLOPs of a search: 2 d x users x sum over heads of group sizes."""
    sizes = np.array([len(rows) for rows in tree.eligible(0, shape.items)])
    return 2.0 * shape.dim * shape.sequences * float(sizes[np.array(tree.item_set_K)].sum())


def _inputs(
    shape: Shape, data: Path, config: RunConfig
) -> tuple[PriorTree, Tensor, Queries, Exclusions]:
    """Returns the tree, the item vectors, the queries, and the items that users have seen."""
    tree = load_tree(config.priors, PreparedData(data), config.model.horizon)
    generator = torch.Generator().manual_seed(0)
    table_Vd = _round(torch.randn(shape.items, shape.dim, generator=generator))
    paths = len(tree.item_set_K)
    vector_BKd = _round(torch.randn(shape.sequences, paths, shape.dim, generator=generator))
    seen = torch.randint(shape.items, (shape.sequences * _SEEN,), generator=generator).numpy()
    excluded = Exclusions.of(seen, np.full(shape.sequences, _SEEN))
    return tree, table_Vd, Queries(vector_BKd, vector_BKd.new_zeros(vector_BKd.shape[:2])), excluded


def _round(x: Tensor) -> Tensor:
    """Rounds numbers to multiples of 1/256.

    float32 can add products of these numbers without rounding, so results do not depend on the
    order of summation.
    """
    return x.mul_(_STEPS).round_().div_(_STEPS)


def _ties_by_row(score_Bk: Tensor, row_Bk: Tensor) -> Tensor:
    """Returns rows by descending score; if scores are equal, the smaller row comes first."""
    # Rows are sorted first. A stable sort by score then keeps this order among equal scores.
    row_Bk, order = row_Bk.sort(1)
    return row_Bk.gather(1, score_Bk.gather(1, order).argsort(dim=1, descending=True, stable=True))


def _checksum(row_Bk: Tensor) -> float:
    """Returns a number that depends on the items and their order."""
    position = torch.arange(1, row_Bk.numel() + 1, dtype=torch.float64)
    return float((row_Bk.flatten().double() * position).sum() / position.sum())
