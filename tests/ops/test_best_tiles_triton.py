"""The kernels that score tiles equal their references, by Triton's interpreter on a CPU.

`pip install triton` (the extra `triton`) where torch has brought none.
"""

import pytest
import torch

pytest.importorskip(
    "triton", reason="triton is not installed: pip install 'torchrec-priors[triton]'"
)

from torchrec_priors.ops import best_tiles_triton as kernels
from torchrec_priors.ops.best_tiles import (
    TILE,
    TILE_MAXIMA,
    TILE_SCORES,
    TiledItems,
    tile_maxima_reference,
    tile_scores_reference,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("users", "width"), [(3, 5), (66, 16)])
def test_equals_the_reference(users, width, scaled):
    generator = torch.Generator().manual_seed(0)
    # The sets have 70, 0 and 3 items, and 1, 1 and 3 paths; a path is closed to some users.
    rows = [torch.randperm(80, generator=generator)[:count] for count in (70, 0, 3)]
    padded = [torch.nn.functional.pad(row, (0, -len(row) % TILE), value=-1) for row in rows]
    items = TiledItems(
        row_E=torch.cat(padded).int().to(DEVICE),
        set_t=torch.tensor([0, 0, 2], dtype=torch.int32, device=DEVICE),
        first_path_S1=torch.tensor([0, 1, 2, 5], device=DEVICE),
        vector_Rd=torch.randn(80, width, generator=generator).to(DEVICE),
        scale_R=torch.rand(80, generator=generator).to(DEVICE) if scaled else None,
    )
    query = torch.randn(users, 5, width, generator=generator).to(DEVICE)
    bias = torch.randn(users, 5, generator=generator)
    bias[torch.rand(users, 5, generator=generator) < 0.3] = -torch.inf
    bias = bias.to(DEVICE)

    expected = tile_maxima_reference(items, query, bias)
    for compute in (kernels.tile_maxima, TILE_MAXIMA.reference):
        torch.testing.assert_close(compute(items, query, bias), expected, rtol=1e-5, atol=1e-5)

    tiles = torch.randint(3, (users, 2), generator=generator).to(DEVICE)
    score, path = tile_scores_reference(items, query, bias, tiles)
    fast_score, fast_path = kernels.tile_scores(items, query, bias, tiles)
    torch.testing.assert_close(fast_score, score, rtol=1e-5, atol=1e-5)
    found = ~torch.isneginf(score)
    assert torch.equal(fast_path[found], path[found])
    assert TILE_SCORES.reference is tile_scores_reference
