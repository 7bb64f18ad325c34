"""Scores the items of many item sets on a GPU, in tiles of a fixed number of items.

An index lists the items of each set, set after set, and cuts the list into tiles. A tile has items
of a single set; the last tile of a set is padded. The score of an item in a set is

    s = max over the paths p of the set of (q_p . e * scale) + bias_p

`TILE_MAXIMA` computes the largest score of every tile, for every user, and `TILE_SCORES` all scores
of some tiles. On a GPU each is one kernel, whatever the number of sets.

Shapes: B users, K paths, S sets, t tiles, E = t * TILE places in the list, R rows of vectors, C
chosen tiles of a user, d width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.ops.gpu_kernel import GpuKernel

TILE = 64  # items in a tile
MOST_WIDTH = 256  # the largest width of vectors


@dataclass(frozen=True)
class TiledItems:
    """The items of all sets, in tiles.

    Attributes:
        row_E: int32, the row of the vector at each place; -1 for padding.
        set_t: int32, the set of each tile.
        first_path_S1: int64, the first path of each set; the last entry is K.
        vector_Rd: the vectors.
        scale_R: a factor for the scores of each row; None for 1.
    """

    row_E: Tensor
    set_t: Tensor
    first_path_S1: Tensor
    vector_Rd: Tensor
    scale_R: Tensor | None = None

    def __len__(self) -> int:
        return len(self.set_t)


def tile_maxima_reference(items: TiledItems, query_BKd: Tensor, bias_BK: Tensor) -> Tensor:
    """Returns the largest score of each tile, [B, t]; -inf for a tile without an open path."""
    maxima = []
    for tile in range(len(items)):
        tile_B1 = torch.full((len(query_BKd), 1), tile, device=bias_BK.device)
        score_BE, _ = tile_scores_reference(items, query_BKd, bias_BK, tile_B1)
        maxima.append(score_BE.amax(1))
    return torch.stack(maxima, 1) if maxima else bias_BK.new_zeros(len(bias_BK), 0)


def tile_scores_reference(
    items: TiledItems, query_BKd: Tensor, bias_BK: Tensor, tile_BC: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the scores of all places of some tiles, and the paths with the best score.

    Args:
        items: the items.
        query_BKd: the queries of all paths.
        bias_BK: added to the scores of a path; -inf for a closed path.
        tile_BC: int64, the tiles.

    Returns:
        Scores, float32 [B, C * TILE], -inf for padding; and paths, int32 [B, C * TILE].
    """
    users, chosen = tile_BC.shape
    row_BCT = items.row_E.view(-1, TILE)[tile_BC].long()
    set_BC = items.set_t[tile_BC]
    score_BCT = bias_BK.new_full(row_BCT.shape, -torch.inf)
    path_BCT = torch.zeros_like(row_BCT, dtype=torch.int32)
    bounds = items.first_path_S1.tolist()

    for number in set_BC.unique().tolist():
        user, column = (set_BC == number).nonzero(as_tuple=True)
        row_nT = row_BCT[user, column]
        vector_nTd = items.vector_Rd[row_nT.clamp(min=0)]
        paths = slice(bounds[number], bounds[number + 1])
        score_npT = torch.einsum("npd,nTd->npT", query_BKd[user, paths], vector_nTd)
        if items.scale_R is not None:
            score_npT = score_npT * items.scale_R[row_nT.clamp(min=0)][:, None]
        score_npT = score_npT + bias_BK[user, paths][:, :, None]
        best_nT, path_nT = score_npT.max(1)
        score_BCT[user, column] = best_nT.masked_fill(row_nT < 0, -torch.inf)
        path_BCT[user, column] = (path_nT + bounds[number]).int()
    return score_BCT.view(users, chosen * TILE), path_BCT.view(users, chosen * TILE)


def _maxima(items: TiledItems, query_BKd: Tensor, bias_BK: Tensor) -> Tensor:
    """Computes `tile_maxima_reference` set by set, with products of whole sets."""
    maximum_Bt = bias_BK.new_empty(len(bias_BK), len(items))
    bounds = items.first_path_S1.tolist()
    row_tT = items.row_E.view(-1, TILE).long()
    for number in items.set_t.unique().tolist():
        tiles = (items.set_t == number).nonzero()[:, 0]
        row_e = row_tT[tiles].flatten()
        vector_ed = items.vector_Rd[row_e.clamp(min=0)]
        best_Be = bias_BK.new_full((len(bias_BK), len(row_e)), -torch.inf)
        for path in range(bounds[number], bounds[number + 1]):
            score_Be = query_BKd[:, path] @ vector_ed.T
            if items.scale_R is not None:
                score_Be = score_Be * items.scale_R[row_e.clamp(min=0)]
            best_Be = torch.maximum(best_Be, score_Be + bias_BK[:, path, None])
        best_Be = best_Be.masked_fill(row_e < 0, -torch.inf)
        maximum_Bt[:, tiles] = best_Be.unflatten(1, (-1, TILE)).amax(2)
    return maximum_Bt


TILE_MAXIMA = GpuKernel("tile_maxima", "best_tiles_triton", 1, _maxima)
TILE_SCORES = GpuKernel("tile_scores", "best_tiles_triton", 1, tile_scores_reference)
