"""Paths of one block are compared by their best score; blocks are averaged."""

import numpy as np
import pytest
import torch

from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.fusion import Fusion, blocks

GENRE = ItemPrior("genre", ["a", "b"], np.array([0, 1, 2, 3]), np.array([0, 1, 0, 1]), 4)


def test_each_level_of_an_additive_tree_is_a_block():
    tree = PriorTree([TemporalPrior(2, 4), GENRE], 4, "additive")
    pairs = {
        (path.levels, block) for path, block in zip(tree.paths, blocks(tree).tolist(), strict=True)
    }
    assert sorted(block for _, block in pairs) == [0, 1]
    assert len({levels for levels, _ in pairs}) == 2


def test_each_group_of_a_level_that_restricts_no_items_is_a_block():
    tree = PriorTree([TemporalPrior(2, 4), GENRE], 4)
    found = {
        path.groups: block for path, block in zip(tree.paths, blocks(tree).tolist(), strict=True)
    }
    assert found == {(0, 0): 0, (0, 1): 0, (1, 0): 1, (1, 1): 1}


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(
    "fusion",
    [
        {"kind": "mean"},
        {"kind": "inverse_variance", "variance_K": torch.ones(3)},
        {"kind": "hierarchical", "block_K": torch.zeros(3, dtype=torch.int64)},
        {"kind": "hierarchical", "block_K": torch.arange(3)},
    ],
)
def test_of_equally_good_paths_the_first_is_named(fusion, calibrated):
    accumulator = Fusion(**fusion, calibrated=calibrated).accumulator(1, torch.zeros(1, 2))
    for path, score in enumerate((-1.0, -1.0, -2.0)):
        accumulator.add(slice(0, 2), torch.full((1, 1, 2), score), torch.tensor([[path]]))
    assert accumulator.result()[1].tolist() == [[0, 0]]


def test_a_tile_has_one_maximum_a_block_where_its_rows_are():
    rows_RT = torch.zeros(1, 2, device="meta")
    fusion = Fusion("hierarchical", block_K=torch.tensor([0, 1, 1]))
    best = fusion.accumulator(3, rows_RT).best
    assert (best.shape, best.device.type) == ((2, 3, 2), "meta")
