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


def _kernel(landmarks):
    return Kernel.of(landmarks, _alone, leads=True)


def _fit(kernel, blocks):
    return ContentMap.fit(kernel, blocks, _alone, leads=True)


def _features(kernel, content):
    """x, in float64, from the definition of Nystroem's method, by a root that is not symmetric."""

    def gaussian(first, second):
        square = ((first[:, None] - second[None]) ** 2).sum(-1)
        return np.exp(-square / (2 * kernel.width**2))

    landmarks = kernel.landmark_Lc.double().numpy()
    among = gaussian(landmarks, landmarks) + 1e-3 * np.eye(len(landmarks))
    near = gaussian(content.double().numpy(), landmarks)
    root = np.linalg.inv(np.linalg.cholesky(among)).T
    return np.concatenate([content.double().numpy(), near @ root], 1)


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
    kernel = _kernel(block.content_Nc[:40])
    found = _fit(kernel, [block])

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
    """Also with content that repeats, so that eigenvectors of the kernel may be any of a space."""
    block = _items(100, 6)
    block.content_Nc[50:] = block.content_Nc[:50]
    landmarks = block.content_Nc[20:80]
    whole = _fit(_kernel(landmarks), [block])
    others = _items(10, 6, seed=1).content_Nc

    # Rank 0 has items 0 to 29 in two blocks, rank 1 has all others, and rank 2 none.
    shares = [[(0, 10), (10, 30)], [(30, 100)], [(0, 0)]]

    def on_all_ranks(run):
        """Runs a function on all ranks until it has the sums of all of them."""
        known = []
        while True:
            asked = []

            def total(tensor, rank_asked):
                place = len(rank_asked)
                rank_asked.append(tensor.clone())
                return known[place].clone() if place < len(known) else tensor

            results = []
            for rank in range(len(shares)):
                rank_asked = []
                results.append(run(rank, lambda tensor, kept=rank_asked: total(tensor, kept)))
                asked.append(rank_asked)
            if len(known) == len(asked[0]):
                return results
            known.append(sum(one[len(known)] for one in asked))

    def fitted(rank, total):
        kernel = Kernel.of(landmarks, total, leads=rank == 0)
        blocks = [_part(block, *ends) for ends in shares[rank]]
        return ContentMap.fit(kernel, blocks, total, leads=rank == 0)

    for found in on_all_ranks(fitted):
        assert found.penalty == whole.penalty
        torch.testing.assert_close(found(others), whole(others), atol=1e-5, rtol=1e-5)


def test_features_do_not_depend_on_the_eigenvectors_that_a_processor_finds(monkeypatch):
    content = _items(60, 6).content_Nc
    content[30:] = content[:30]
    expected = _kernel(content)(content)
    eigh = torch.linalg.eigh

    def other_signs_and_order(matrix):
        value, vector = eigh(matrix)
        order = torch.randperm(len(value), generator=torch.Generator().manual_seed(0))
        return value[order], vector[:, order] * (-1.0) ** torch.arange(len(value))

    monkeypatch.setattr(torch.linalg, "eigh", other_signs_and_order)
    torch.testing.assert_close(_kernel(content)(content), expected, atol=1e-5, rtol=1e-5)


def test_what_content_does_not_tell_makes_factors_short():
    random = torch.Generator().manual_seed(0)
    content = _units(600, 8, random)
    said = torch.nn.functional.normalize(torch.randn(600, FACTORS, generator=random))
    count = torch.ones(600)
    out = torch.arange(600) % 5 == 4
    kernel = _kernel(content[:100])
    nothing = _fit(kernel, [Block(content, said, count, out)])
    assert nothing(content).norm(dim=1).mean() < 0.3
    assert nothing.explained < 0.05

    same = torch.nn.functional.normalize(content[:, :FACTORS])
    told = _fit(kernel, [Block(content, same, count, out)])
    assert told(content).norm(dim=1).mean() > 0.9
    assert told.explained > 0.8


def test_the_kernel_finds_what_is_local():
    """Pairs of equal factors, whose content is close: no linear map can learn them."""
    random = torch.Generator().manual_seed(0)
    content = _units(200, 60, random)
    near = torch.nn.functional.normalize(content + 0.02 * torch.randn(200, 60, generator=random))
    factor = torch.randn(200, FACTORS, generator=random)
    # The second half repeats the first one almost, and some of it is held out.
    both = Block(
        torch.cat([content, near]),
        torch.cat([factor, factor]),
        torch.ones(400),
        (torch.arange(400) % 10 > 8) & (torch.arange(400) >= 200),
    )
    with_kernel = _fit(_kernel(content), [both])
    without = _fit(_kernel(content[:0]), [both])
    assert with_kernel.explained > 0.9
    assert without.explained < 0.5


def test_without_items_all_factors_are_zero(monkeypatch):
    block = _part(_items(5, 3), 0, 0)
    found = _fit(_kernel(block.content_Nc), [block])
    assert torch.equal(found(torch.randn(4, 3)), torch.zeros(4, FACTORS))
    assert np.isnan(found.explained)

    # Items that are all alike have no direction in which they vary.
    monkeypatch.setattr(content_map, "STRETCH", 100.0)
    same = Block(
        torch.eye(3)[[0, 0]], torch.ones(2, FACTORS), torch.ones(2), torch.tensor([False, True])
    )
    found = _fit(_kernel(same.content_Nc), [same])
    torch.testing.assert_close(found(torch.eye(3)), torch.ones(3, FACTORS))
