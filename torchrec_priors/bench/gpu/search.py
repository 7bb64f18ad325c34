"""Measures a search of 1.26 million items, and tiles in types of 16 bits.

The search is that of evaluation and serving on a GPU (`retrieval/tile_search.py`). It is first
compared with all scores of a few users. Then the kernel that finds the best score of each tile,
which takes most of the time, runs with item vectors and queries of 16 bits: half of the bytes, and
products at a higher rate. Lists stay exact only if the tiles that it chooses contain those that
float32 chooses; the row says for how many users that is so.
"""

import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.bench.drawn_log import draw_log
from torchrec_priors.bench.gpu.device import (
    NOT_INTERPRETED,
    TYPES,
    device_seconds,
    matmul_rate,
    peak_bytes,
    seconds_of,
    with_kernels,
)
from torchrec_priors.bench.gpu.plain_training import tree_of
from torchrec_priors.bench.gpu.report import Report
from torchrec_priors.bench.gpu.trace import traced
from torchrec_priors.bench.gpu.waits import count_waits
from torchrec_priors.bench.shapes import SHAPES, Shape
from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.heads.score import Score
from torchrec_priors.ops.best_tiles import TILE_MAXIMA, TiledItems
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.keys import row_of, score_of
from torchrec_priors.retrieval.search_types import Exclusions, Queries
from torchrec_priors.retrieval.tile_search import search_tiles

_SEEN = 50  # items of each user that are not recommended
_CHECKED = 8  # users whose lists are compared with all scores
_REPEATS = {"cuda": 10, "cpu": 1}
_TINY: dict[str, Any] = {"sequences": 3, "items": 300, "dim": 16, "top": 5}


def measure_search(device: torch.device, report: Report) -> None:
    """Reports the check and the measures of a search, and the tiles of each type."""
    shape = SHAPES["retrieval"]
    if device.type == "cpu":
        shape = replace(shape, **_TINY)
    log = draw_log(shape)
    tree = tree_of(shape, log)
    generator = torch.Generator().manual_seed(0)
    table_Vd = torch.randn(shape.items, shape.dim, generator=generator).to(device)
    paths = len(tree.item_set_K)
    vector_BKd = torch.randn(shape.sequences, paths, shape.dim, generator=generator).to(device)
    queries = Queries(vector_BKd, torch.zeros(vector_BKd.shape[:2], device=device))

    index = GroupIndex(tree, Shard(table_Vd, 0))
    seen = torch.randint(shape.items, (shape.sequences * _SEEN,), generator=generator).numpy()
    excluded = Exclusions.of(seen, np.full(shape.sequences, _SEEN))
    with with_kernels(device):
        _search(shape, tree, index, queries, excluded, device, report)
        _types(shape, tree, index, queries, device, report)


def _search(
    shape: Shape,
    tree: PriorTree,
    index: GroupIndex,
    queries: Queries,
    excluded: Exclusions,
    device: torch.device,
    report: Report,
) -> None:
    """Compares the search with all scores, and measures it."""

    def run() -> Tensor:
        keys_Bk, _ = search_tiles(index, Score("dot"), queries, excluded, shape.top)
        return keys_Bk

    keys_Bk = run()
    report("check", _compared(shape, tree, index.shard.rows, queries, excluded, keys_Bk))

    repeats = _REPEATS[device.type]
    seconds = seconds_of(run, device, repeats, warm_up=1)
    waits = count_waits(run, device)
    busy = traced(run, device, repeats)
    second = statistics.median(seconds)
    flops = _flops(shape, tree)
    report(
        "search",
        {
            "users": shape.sequences,
            "items": shape.items,
            "heads": len(tree.item_set_K),
            "ms": 1e3 * second,
            "users/s": shape.sequences / second,
            "TFLOP/s": flops / second / 1e12,
            "kernels": busy.kernels / repeats,
            "host waits": sum(waits.values()),
            "idle share": busy.idle_share,
            "peak, GB": peak_bytes(run, device) / 1e9,
        },
    )


def _flops(shape: Shape, tree: PriorTree) -> float:
    """Returns the FLOPs of the scores: 2 d x users x sum over heads of group sizes."""
    sizes = np.asarray(tree.set_sizes)[np.array(tree.item_set_K)]
    return 2.0 * shape.dim * shape.sequences * float(sizes.sum())


@torch.no_grad()
def _compared(
    shape: Shape,
    tree: PriorTree,
    table_Vd: Tensor,
    queries: Queries,
    excluded: Exclusions,
    keys_Bk: Tensor,
) -> dict[str, object]:
    """Compares the lists of a few users with all scores, by PyTorch's operations."""
    users = min(_CHECKED, shape.sequences)
    rows_S = tree.eligible(0, shape.items)
    best_BV = torch.full((users, shape.items), -torch.inf, device=table_Vd.device)
    for path, number in enumerate(tree.item_set_K):
        row = torch.from_numpy(rows_S[number]).to(table_Vd.device)
        score_Bn = queries.vector_BKd[:users, path] @ table_Vd[row].T
        best_BV[:, row] = torch.maximum(best_BV[:, row], score_Bn)

    own = excluded.user < users
    best_BV[torch.from_numpy(excluded.user[own]), torch.from_numpy(excluded.row[own])] = -torch.inf
    expected_Bk = best_BV.topk(shape.top, dim=1).values
    difference = (score_of(keys_Bk[:users]) - expected_Bk).abs().max()
    of_items_Bk = best_BV.gather(1, row_of(keys_Bk[:users]))
    inside = (score_of(keys_Bk[:users]) - of_items_Bk).abs().max()
    scale = float(expected_Bk.abs().max())
    worst = max(float(difference), float(inside)) / scale
    return {"users": users, "largest difference of scores": worst, "ok": worst < 1e-4}


def _types(
    shape: Shape,
    tree: PriorTree,
    index: GroupIndex,
    queries: Queries,
    device: torch.device,
    report: Report,
) -> None:
    """Times the best scores of all tiles in each type, and compares the chosen tiles."""
    tiled = index.tiled()
    flops = _flops(shape, tree)
    exact_Bt = None
    for name, dtype in TYPES.items():
        if device.type == "cpu" and name == "bf16":
            report("tiles", {"type": name, "skipped": NOT_INTERPRETED})
            continue
        items = TiledItems(
            tiled.row_E, tiled.set_t, tiled.first_path_S1, index.shard.rows.to(dtype)
        )
        vector_BKd = queries.vector_BKd.to(dtype)
        maximum_Bt = TILE_MAXIMA(items, vector_BKd, queries.bias_BK)
        exact_Bt = maximum_Bt if exact_Bt is None else exact_Bt

        def run(items: TiledItems = items, vector_BKd: Tensor = vector_BKd) -> Tensor:
            found: Tensor = TILE_MAXIMA(items, vector_BKd, queries.bias_BK)
            return found

        seconds = device_seconds(run, device, _REPEATS[device.type])
        chosen = min(shape.top + _SEEN + shape.top // 4, len(items))
        least_Bt = exact_Bt.topk(min(shape.top, chosen), dim=1).indices
        found_BC = maximum_Bt.topk(chosen, dim=1).indices
        kept_B = (least_Bt[:, :, None] == found_BC[:, None, :]).any(2).all(1)
        report(
            "tiles",
            {
                "type": name,
                "ms": 1e3 * seconds,
                "TFLOP/s": flops / seconds / 1e12,
                "share of the type's matmul rate": flops / seconds / matmul_rate(device, dtype, 5),
                "vectors, GB": items.vector_Rd.nbytes / 1e9,
                "largest error": float((maximum_Bt - exact_Bt).abs().max()),
                "users whose best tiles are all chosen": float(kept_B.float().mean()),
            },
        )
