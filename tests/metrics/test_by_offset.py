"""How often targets are found, by their offset, against a count by hand."""

import numpy as np
import torch
from users_with_targets import users_with_targets

from torchrec_priors.metrics.by_offset import ByOffset
from torchrec_priors.retrieval.search_types import Found


def _found(rows):
    row_Bk = torch.tensor(rows)
    return Found(row_Bk, torch.zeros(row_Bk.shape), torch.zeros_like(row_Bk))


def test_targets_are_counted_at_their_offset():
    sums = ByOffset(k=2)
    # The third item found is beyond the list; the second user has one target, and an empty place.
    sums.update(users_with_targets([[5, 7, 9], [4]]), _found([[7, 5, 9], [3, -1, -1]]))
    assert sums.targets_T.tolist() == [2, 1, 1]
    assert sums.hits_T.tolist() == [1, 1, 0]

    sums.update(users_with_targets([[4, 4, 1, 2]]), _found([[4, 2, 0]]))
    assert sums.targets_T.tolist() == [3, 2, 2, 1]
    assert sums.hits_T.tolist() == [2, 2, 0, 1]
    np.testing.assert_allclose(sums.recall_T, [2 / 3, 1, 0, 1])
