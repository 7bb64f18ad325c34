"""Max fusion on a GPU, with as many launches for a million items as for a thousand.

    1  the largest score of every tile of 64 items, for every user (`ops/best_tiles.py`)
    2  each user's tiles with the largest of these scores
    3  all scores of these tiles, without excluded items and repeated ones, and the best k of them

Nothing of size users x items is in memory; the array of step 1 has 64 times fewer numbers.

The list of a user is exact if its last score is above the largest score of the tiles that were not
chosen. So that this is the usual case, k tiles are chosen, and some more: one for each excluded
item, as a tile may owe its place to an excluded item, and a share for items that are in the tiles
of several sets. The host reads once whether all lists are exact. If not, twice as many tiles are
chosen.

Scores of step 1 are rounded differently from those of step 3, so a list counts as exact only if its
last score is higher by the largest difference that rounding can make.

Shapes: B users, K paths, t tiles, C chosen tiles, W entries of a user's chosen tiles, k results, d
width.
"""

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.heads.score import Score
from torchrec_priors.ops.best_tiles import MOST_WIDTH, TILE, TILE_MAXIMA, TILE_SCORES, TiledItems
from torchrec_priors.ops.gpu_kernel import has_kernels
from torchrec_priors.ops.pinned import to_device
from torchrec_priors.retrieval.best_items import without_duplicates
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.keys import NOTHING, encode, score_of
from torchrec_priors.retrieval.search_types import Exclusions, Queries

_MORE = 0.25  # tiles that are chosen for repeated items, as a share of k
_AT_LEAST = 16  # of these tiles
# The largest difference between two ways to add products, relative to the product of the norms.
_ROUNDING = 2.0**-16


def can_search(score: Score, queries: Queries) -> bool:
    """Returns whether this search can compute these scores: products or cosines, on a GPU."""
    fits = queries.vector_BKd.shape[2] <= MOST_WIDTH and type(score) is Score
    return fits and has_kernels(queries.vector_BKd)


@torch.no_grad()
def search_tiles(
    index: GroupIndex, score: Score, queries: Queries, excluded: Exclusions, k: int
) -> tuple[Tensor, Tensor]:
    """Finds the k best of this rank's items for each user.

    Args:
        index: this rank's items.
        score: turns stored vectors into the vectors that scores are computed with.
        queries: the queries of all paths for each user.
        excluded: the items to leave out for each user.
        k: the number of items for each user.

    Returns:
        The keys of the items, best first, and their paths: [B, k] each. Keys of shorter lists are
        padded with `NOTHING`.
    """
    vector_BKd = queries.vector_BKd.float()
    bias_BK = queries.bias_BK.float()
    users = len(bias_BK)
    tiled = index.tiled()
    norm_R = index.norm_R
    scale_R = None
    if score.kind == "cosine":
        # As in `torch.nn.functional.normalize`.
        scale_R = norm_R.clamp(min=1e-12).reciprocal_()
    items = TiledItems(
        tiled.row_E, tiled.set_t, tiled.first_path_S1, index.shard.rows.float(), scale_R
    )

    pairs = np.sort((excluded.user.astype(np.int64) << 32) + excluded.row)
    banned = to_device(pairs, bias_BK.device)
    most_excluded = int(np.bincount(excluded.user, minlength=1).max())
    largest_norm = torch.ones((), device=bias_BK.device)
    if scale_R is None and len(norm_R):
        largest_norm = norm_R.amax()
    margin_B = torch.linalg.vector_norm(vector_BKd, dim=2).amax(1) * largest_norm * _ROUNDING

    maximum_Bt = TILE_MAXIMA(items, vector_BKd, bias_BK)
    wanted = k + most_excluded + max(_AT_LEAST, int(_MORE * k))
    while True:
        chosen = min(wanted, len(items))
        highest = maximum_Bt.topk(min(chosen + 1, len(items)), dim=1)
        keys_BW, path_BW = _entries(
            index, items, tiled.item_E, vector_BKd, bias_BK, highest.indices[:, :chosen], banned
        )
        keys_Bk, path_Bk = _best(keys_BW, path_BW, k, tiled.most_sets)
        if chosen == len(items):
            return keys_Bk, path_Bk

        left_B = highest.values[:, chosen]
        is_exact_B = torch.isneginf(left_B) | (score_of(keys_Bk[:, -1]) > left_B + margin_B)
        if users == 0 or bool(is_exact_B.all()):
            return keys_Bk, path_Bk
        wanted *= 2


def _entries(
    index: GroupIndex,
    items: TiledItems,
    item_E: Tensor,
    vector_BKd: Tensor,
    bias_BK: Tensor,
    tile_BC: Tensor,
    banned: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns keys and paths of all items in some tiles, [B, W]; `NOTHING` for excluded items.

    Args:
        index: this rank's items.
        items: the same in tiles.
        item_E: the row id of the item at each place of a tile.
        vector_BKd, bias_BK: the queries.
        tile_BC: the tiles.
        banned: excluded items as (user << 32) + row id, ascending.
    """
    score_BW, path_BW = TILE_SCORES(items, vector_BKd, bias_BK, tile_BC)
    item_BW = item_E.view(-1, TILE)[tile_BC].flatten(1)
    keys_BW = encode(score_BW, item_BW)
    if len(banned):
        user_B = torch.arange(len(item_BW), device=item_BW.device)
        pair_BW = (user_B << 32)[:, None] + item_BW
        place_BW = torch.searchsorted(banned, pair_BW).clamp_(max=len(banned) - 1)
        keys_BW = keys_BW.masked_fill(banned[place_BW] == pair_BW, NOTHING)
    return keys_BW, path_BW


def _best(keys_BW: Tensor, path_BW: Tensor, k: int, most_sets: int) -> tuple[Tensor, Tensor]:
    """Returns keys and paths of the k best items of each user, padded with `NOTHING`.

    Args:
        keys_BW, path_BW: the entries of each user.
        k: the number of items.
        most_sets: the largest number of sets that an item is in.
    """
    # An item with several entries is among the k * most_sets best entries, if it is among the best.
    kept = min(k * max(most_sets, 1), keys_BW.shape[1])
    keys_BW, column_BW = keys_BW.topk(kept, dim=1)
    path_BW = path_BW.gather(1, column_BW)
    if most_sets > 1:
        # Of an item's entries with equal scores, the one with the smallest path counts.
        path_BW, order_BW = path_BW.sort(dim=1, stable=True)
        keys_BW = keys_BW.gather(1, order_BW)
        keys_BW, path_BW = without_duplicates(keys_BW, path_BW)
        keys_BW, column_BW = keys_BW.topk(min(k, kept), dim=1)
        path_BW = path_BW.gather(1, column_BW)

    missing = k - keys_BW.shape[1]
    if missing > 0:
        keys_BW = torch.nn.functional.pad(keys_BW, (0, missing), value=NOTHING)
        path_BW = torch.nn.functional.pad(path_BW, (0, missing))
    return keys_BW, path_BW
