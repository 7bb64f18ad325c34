"""First values follow from row ids alone and have the asked spread."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.embedding import item_table as table
from torchrec_priors.embedding.item_table import Shard, initialise_rows


def _rows(count, dim, first=0, seed=0, std=1.0):
    rows = torch.empty(count, dim)
    initialise_rows(Shard(rows, first), seed, std)
    return rows


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 50), st.sampled_from([4, 8, 20]), st.integers(0, 50), st.integers(0, 9))
def test_a_row_is_the_same_in_any_shard(rows, dim, cut, seed):
    whole, cut = _rows(rows, dim, seed=seed), min(cut, rows)
    assert torch.equal(whole[:cut], _rows(cut, dim, seed=seed))
    assert torch.equal(whole[cut:], _rows(rows - cut, dim, first=cut, seed=seed))


def test_is_filled_in_chunks_without_a_seam(monkeypatch):
    whole = _rows(100, 8)
    monkeypatch.setattr(table, "_NUMBERS_AT_A_TIME", 7 * 8)
    assert torch.equal(whole, _rows(100, 8))


def test_values_are_normal_with_the_asked_deviation():
    values = _rows(20_000, 16, std=0.02)
    assert abs(values.mean().item()) < 2e-4
    assert abs(values.std().item() - 0.02) < 2e-4
    assert abs((values.abs() < 0.02).float().mean().item() - 0.6827) < 5e-3
    assert len(values.unique()) > 0.9 * values.numel()


def test_seeds_differ():
    assert not torch.equal(_rows(5, 4), _rows(5, 4, seed=1))
