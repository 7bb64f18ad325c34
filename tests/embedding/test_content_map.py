"""The map from content to factors: the solution of its regression, on any number of ranks."""

import numpy as np
import pytest
import torch

from torchrec_priors.embedding import content_map
from torchrec_priors.embedding.content_map import PENALTIES, STRETCH, Block, ContentMap, Kernel

FACTORS = 5


def _units(rows, width, random):
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=random) + 0.5)


def _items(items, width, seed=0, noise=0.3):
    random = torch.Generator().manual_seed(seed)
    content = _units(items, width, random)
    weight = torch.randn(width, FACTORS, generator=random)
    factor = content @ weight + noise * torch.randn(items, FACTORS, generator=random) + 1.0
    count = 3 + factor[:, 0] + torch.rand(items, generator=random)
    return Block(content, factor, count, torch.arange(items) % 5 == 4)


def _part(block, first, last):
    return Block(*(values[first:last] for values in vars(block).values()))


def _alone(tensor):
    return tensor


def _features(kernel, content):
    """x, in float64, from the definition of Nystroem's method."""

    def gaussian(first, second):
        square = ((first[:, None] - second[None]) ** 2).sum(-1)
        return np.exp(-square / (2 * kernel.width**2))

    landmarks = kernel.landmark_Lc.double().numpy()
    value, vector = np.linalg.eigh(gaussian(landmarks, landmarks))
    kept = value > 1e-6
    near = gaussian(content.double().numpy(), landmarks)
    return np.concatenate(
        [content.double().numpy(), near @ vector[:, kept] / value[kept] ** 0.5], 1
    )


def _solved(x, factor, penalty):
    """Least squares with a row of sqrt(penalty) for each number of x."""
    centred = x - x.mean(0)
    width = x.shape[1]
    left = np.concatenate([centred, penalty**0.5 * np.eye(width)])
    right = np.concatenate([factor - factor.mean(0), np.zeros((width, FACTORS))])
    return np.linalg.lstsq(left, right, rcond=None)[0]


@pytest.mark.parametrize(("items", "width", "noise"), [(300, 7, 0.3), (12, 9, 0.1), (200, 4, 3.0)])
def test_the_map_is_the_solution_of_its_regression(items, width, noise):
    block = _items(items, width, noise=noise)
    kernel = Kernel.of(block.content_Nc[:40])
    found = ContentMap.fit(kernel, [block], _alone)

    x = _features(kernel, block.content_Nc)
    factor = block.factor_Nf.double().numpy()
    out = block.held_out_N.numpy()
    errors = {}
    for penalty in PENALTIES:
        weight = _solved(x[~out], factor[~out], penalty)
        predicted = (x[out] - x[~out].mean(0)) @ weight + factor[~out].mean(0)
        errors[penalty] = ((predicted - factor[out]) ** 2).sum()
    assert found.penalty == min(errors, key=errors.get)
    nothing = ((factor[out] - factor[~out].mean(0)) ** 2).sum()
    assert found.explained == pytest.approx(1 - errors[found.penalty] / nothing, abs=1e-4)

    # It is stretched in the direction in which factors vary with the log of interactions.
    count = block.log_count_N.double().numpy()
    direction = (factor - factor.mean(0)).T @ (count - count.mean())
    direction /= np.linalg.norm(direction)
    others = _items(20, width, seed=1).content_Nc
    weight = _solved(x, factor, found.penalty)
    expected = (_features(kernel, others) - x.mean(0)) @ weight
    expected += (STRETCH - 1) * np.outer(expected @ direction, direction)
    expected = torch.from_numpy(expected + factor.mean(0)).float()
    torch.testing.assert_close(found(others), expected, atol=2e-4, rtol=2e-4)


def test_blocks_and_ranks_do_not_matter():
    block = _items(100, 6)
    kernel = Kernel.of(block.content_Nc[:20])
    whole = ContentMap.fit(kernel, [block], _alone)
    others = _items(10, 6, seed=1).content_Nc

    # Rank 0 has items 0 to 29 in two blocks, rank 1 has all others, and rank 2 none.
    shares = [[(0, 10), (10, 30)], [(30, 100)], [(0, 0)]]
    of_ranks = [[_part(block, *ends) for ends in share] for share in shares]
    sums = []
    for blocks in of_ranks:
        ContentMap.fit(kernel, blocks, lambda tensor: sums.append(tensor) or tensor)
    for blocks in of_ranks:
        found = ContentMap.fit(kernel, blocks, lambda _: torch.stack(sums).sum(0))
        assert found.penalty == whole.penalty
        torch.testing.assert_close(found(others), whole(others), atol=1e-5, rtol=1e-5)


def test_what_content_does_not_tell_makes_factors_short():
    random = torch.Generator().manual_seed(0)
    content = _units(600, 8, random)
    said = torch.nn.functional.normalize(torch.randn(600, FACTORS, generator=random))
    count = torch.ones(600)
    out = torch.arange(600) % 5 == 4
    kernel = Kernel.of(content[:100])
    nothing = ContentMap.fit(kernel, [Block(content, said, count, out)], _alone)
    assert nothing(content).norm(dim=1).mean() < 0.3
    assert nothing.explained < 0.05

    same = torch.nn.functional.normalize(content[:, :FACTORS])
    told = ContentMap.fit(kernel, [Block(content, same, count, out)], _alone)
    assert told(content).norm(dim=1).mean() > 0.9
    assert told.explained > 0.8


def test_the_kernel_finds_what_is_local():
    """Pairs of equal factors, whose content is close: no linear map can learn them."""
    random = torch.Generator().manual_seed(0)
    content = _units(200, 60, random)
    near = torch.nn.functional.normalize(content + 0.02 * torch.randn(200, 60, generator=random))
    factor = torch.randn(200, FACTORS, generator=random)
    block = Block(content, factor, torch.ones(200), torch.zeros(200, dtype=torch.bool))
    with_kernel = ContentMap.fit(Kernel.of(content), [block], _alone)
    without = ContentMap.fit(Kernel.of(content[:0]), [block], _alone)
    errors = [(found(near) - factor).square().mean() for found in (with_kernel, without)]
    assert errors[0] < errors[1]


def test_without_items_all_factors_are_zero(monkeypatch):
    block = _part(_items(5, 3), 0, 0)
    found = ContentMap.fit(Kernel.of(block.content_Nc), [block], _alone)
    assert torch.equal(found(torch.randn(4, 3)), torch.zeros(4, FACTORS))
    assert np.isnan(found.explained)

    # Items that are all alike have no direction in which they vary.
    monkeypatch.setattr(content_map, "STRETCH", 100.0)
    same = Block(
        torch.eye(3)[[0, 0]], torch.ones(2, FACTORS), torch.ones(2), torch.tensor([False, True])
    )
    found = ContentMap.fit(Kernel.of(same.content_Nc), [same], _alone)
    torch.testing.assert_close(found(torch.eye(3)), torch.ones(3, FACTORS))
