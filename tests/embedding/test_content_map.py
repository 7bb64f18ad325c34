"""The map from content to factors: the solution of the ridge regression, on any number of ranks."""

import numpy as np
import pytest
import torch

from torchrec_priors.embedding.content_map import ContentMap


def _items(items, width, factors, seed=0):
    random = torch.Generator().manual_seed(seed)
    content = torch.randn(items, width, generator=random) + 2.0
    weight = torch.randn(width, factors, generator=random)
    factor = content @ weight + 0.3 * torch.randn(items, factors, generator=random) + 1.0
    return content, factor


def _alone(tensor):
    return tensor


@pytest.mark.parametrize(("items", "width", "penalty"), [(300, 7, 3.0), (5, 12, 0.5), (1, 4, 1.0)])
def test_the_map_is_the_solution_of_the_regression(items, width, penalty):
    content, factor = _items(items, width, 5)
    found = ContentMap.fit([(content, factor)], penalty, _alone)

    # The same as least squares with a row of sqrt(penalty) for each number of the content.
    centred = (content - content.mean(0)).double().numpy()
    left = np.concatenate([centred, np.sqrt(penalty) * np.eye(width)])
    right = np.concatenate([(factor - factor.mean(0)).double().numpy(), np.zeros((width, 5))])
    weight = np.linalg.lstsq(left, right, rcond=None)[0]
    np.testing.assert_allclose(found.weight_cf, weight, atol=1e-5)

    others, _ = _items(20, width, 5, seed=1)
    expected = (others - content.mean(0)) @ torch.from_numpy(weight).float() + factor.mean(0)
    torch.testing.assert_close(found(others), expected, atol=1e-4, rtol=1e-4)


def test_blocks_and_ranks_do_not_matter():
    content, factor = _items(100, 6, 4)
    whole = ContentMap.fit([(content, factor)], 2.0, _alone)

    # Rank 0 has items 0 to 29 in two blocks, rank 1 has all others, and rank 2 none.
    shares = [[(0, 10), (10, 30)], [(30, 100)], [(0, 0)]]
    sums = []
    for blocks in shares:
        ContentMap.fit(
            [(content[a:b], factor[a:b]) for a, b in blocks],
            2.0,
            lambda tensor: sums.append(tensor) or tensor,
        )
    for blocks in shares:
        of_rank = [(content[a:b], factor[a:b]) for a, b in blocks]
        found = ContentMap.fit(of_rank, 2.0, lambda _: torch.stack(sums).sum(0))
        torch.testing.assert_close(found.weight_cf, whole.weight_cf, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.factor_f, whole.factor_f)


def test_what_content_does_not_tell_makes_factors_short():
    random = torch.Generator().manual_seed(0)
    content = torch.nn.functional.normalize(torch.randn(400, 8, generator=random), dim=1)
    factor = torch.nn.functional.normalize(torch.randn(400, 16, generator=random), dim=1)
    nothing = ContentMap.fit([(content, factor)], 3.0, _alone)
    assert nothing(content).norm(dim=1).max() < 0.5

    told = ContentMap.fit([(content, torch.nn.functional.pad(content, (0, 8)))], 0.01, _alone)
    assert told(content).norm(dim=1).min() > 0.95


def test_without_items_all_factors_are_zero():
    found = ContentMap.fit([(torch.zeros(0, 3), torch.zeros(0, 2))], 1.0, _alone)
    assert torch.equal(found(torch.randn(4, 3)), torch.zeros(4, 2))
