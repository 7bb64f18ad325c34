"""Queries and shares of several batches, joined and cut, are those of the users one by one."""

import pytest
import torch

from torchrec_priors.heads.path_queries import PathQueries
from torchrec_priors.heads.repeat_shares import RepeatShares

LENGTHS = [3, 1, 2]


def _queries(users, repeats):
    """Different numbers everywhere, for the users of the given numbers."""
    shares = None
    if repeats:
        shares = RepeatShares(
            torch.tensor([10.0 * user for user in users]),
            torch.cat([100.0 * user + torch.arange(LENGTHS[user]) for user in users]),
            torch.tensor([LENGTHS[user] for user in users]),
        )
    query_BKd = torch.stack([torch.full((2, 4), float(user)) for user in users])
    log_group_BK = torch.tensor([[-1.0 - user, -2.0 - user] for user in users])
    return PathQueries(query_BKd, log_group_BK, shares)


def _assert_equal(left, right):
    assert torch.equal(left.query_BKd, right.query_BKd)
    assert torch.equal(left.log_group_BK, right.log_group_BK)
    assert (left.repeats is None) == (right.repeats is None)
    if left.repeats is not None:
        for name in ("logit_B", "log_share_N", "length_B"):
            assert torch.equal(getattr(left.repeats, name), getattr(right.repeats, name))


@pytest.mark.parametrize("repeats", [False, True])
def test_joined_batches_are_one_batch(repeats):
    parts = [_queries([0], repeats), _queries([1, 2], repeats)]
    joined = PathQueries.joined(parts)
    assert len(joined) == 3
    _assert_equal(joined, _queries([0, 1, 2], repeats))


@pytest.mark.parametrize("repeats", [False, True])
def test_the_first_users_have_their_own_queries(repeats):
    first = _queries([0, 1, 2], repeats).first(2)
    assert len(first) == 2
    _assert_equal(first, _queries([0, 1], repeats))
