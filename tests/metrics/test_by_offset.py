"""How often targets are found, by their offset, against a count by hand."""

import numpy as np
import torch

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.by_offset import ByOffset
from torchrec_priors.retrieval.search_types import Found


def _users(targets):
    lengths = np.array([len(of_user) for of_user in targets])
    none = np.zeros(0, np.int64)
    zeros = np.zeros(len(targets), np.int64)
    flat = np.concatenate([np.array(of_user, np.int64) for of_user in targets])
    return Histories(None, none, zeros, none, zeros, flat, lengths, np.arange(len(targets)))


def _found(rows):
    row_Bk = torch.tensor(rows)
    return Found(row_Bk, torch.zeros(row_Bk.shape), torch.zeros_like(row_Bk))


def test_targets_are_counted_at_their_offset():
    sums = ByOffset(k=2)
    # The third item found is beyond the list; the second user has one target, and an empty place.
    sums.update(_users([[5, 7, 9], [4]]), _found([[7, 5, 9], [3, -1, -1]]))
    assert sums.targets_T.tolist() == [2, 1, 1]
    assert sums.hits_T.tolist() == [1, 1, 0]

    sums.update(_users([[4, 4, 1, 2]]), _found([[4, 2, 0]]))
    assert sums.targets_T.tolist() == [3, 2, 2, 1]
    assert sums.hits_T.tolist() == [2, 2, 0, 1]
    np.testing.assert_allclose(sums.recall_T, [2 / 3, 1, 0, 1])
