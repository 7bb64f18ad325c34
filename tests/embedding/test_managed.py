"""TorchRec's managed collisions, put together of blocks: who is admitted, who is evicted, and what rows they have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_priors.embedding.item_table import first_values
from torchrec_priors.embedding.managed.blocks import Blocks
from torchrec_priors.embedding.managed.ids import spread, unspread
from torchrec_priors.settings.embedding import UnseenConfig


def _blocks(ranks=1, rows=24, blocks=4, eviction="lfu"):
    """One a rank; ranks get whole blocks, the first ones the odd ones."""
    config = UnseenConfig("managed", rows=rows, blocks=blocks, eviction=eviction)
    of_rank = [blocks // ranks + (rank < blocks % ranks) for rank in range(ranks)]
    bounds = np.cumsum([0, *of_rank]) * (rows // blocks)
    pairs = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    return [Blocks(config, pair, bounds.tolist(), torch.device("cpu")) for pair in pairs]


def _met(blocks, items):
    """Tells each rank what is its own; returns the changed rows and their new owners."""
    raw, changed = spread(np.array(items, np.int64)), {}
    for block in blocks:
        first, last = block.range_of_ids
        rows, owners = block.admit(torch.from_numpy(raw[(raw >= first) & (raw < last)]))
        changed |= dict(zip(rows.tolist(), owners.tolist(), strict=True))
    return changed


def _held(blocks):
    return {
        int(item): int(row)
        for block in blocks
        for item, row in zip(block.held().item_C, block.held().row_C, strict=True)
    }


def _remapped(blocks, items):
    raw, rows = spread(np.array(items, np.int64)), np.full(len(items), -1)
    for block in blocks:
        first, last = block.range_of_ids
        here = (raw >= first) & (raw < last)
        values = torch.from_numpy(raw[here])
        feature = JaggedTensor(values=values, lengths=torch.tensor([len(values)]))
        rows[here] = block.remap({"item": feature})["item"].values().numpy()
    return rows.tolist()


@given(st.lists(st.integers(0, 2**31 - 1)))
def test_spreading_is_undone(items):
    raw = spread(np.array(items, np.int64))
    assert unspread(raw).tolist() == items
    assert ((raw >= 0) & (raw < 2**40)).all()


def test_consecutive_items_fill_blocks_alike():
    block = spread(np.arange(24_000)) // (2**40 // 24 + 1)
    assert np.bincount(block, minlength=24).min() > 980


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 40), max_size=60), min_size=1, max_size=6),
    st.integers(2, 4),
    st.sampled_from(["lfu", "lru", "distance_lfu"]),
)
def test_nothing_depends_on_the_ranks(steps, ranks, eviction):
    alone, several = _blocks(1, eviction=eviction), _blocks(ranks, eviction=eviction)
    for items in steps:
        assert _met(alone, items) == _met(several, items[::-1])
        held = _held(alone)
        assert held == _held(several)
        assert len(set(held.values())) == len(held), "a row of one's own"
        rows = _remapped(alone, range(41))
        assert rows == _remapped(several, range(41))
        shared = [5, 11, 17, 23]  # the last row of each block
        assert all(rows[item] == row for item, row in held.items())
        assert all(row in shared for item, row in enumerate(rows) if item not in held)
        assert not set(held.values()) & set(shared)
        state = [
            torch.cat([block.get_buffer(name) for block in several])
            for name in ("_mch_sorted_raw_ids", "_mch_remapped_ids_mapping")
        ]
        assert torch.equal(state[0], alone[0]._mch_sorted_raw_ids), "what a checkpoint holds"
        assert torch.equal(state[1], alone[0]._mch_remapped_ids_mapping)


def test_the_most_frequent_stay_and_the_seldom_give_way():
    (block,) = _blocks(rows=4, blocks=1)
    assert sorted(_met([block], [1, 1, 1, 2, 2, 3])) == [0, 1, 2]
    before = _held([block])
    assert set(before) == {1, 2, 3}
    assert _met([block], [4]) == {}, "no more often met than anyone"
    assert _met([block], [5, 5, 5]) == {before[3]: 5}
    after = _held([block])
    assert after == {1: before[1], 2: before[2], 5: before[3]}
    assert _remapped([block], [3]) == [3], "the row of all that have none"


def test_by_lru_whoever_was_not_met_for_longest_gives_way():
    (block,) = _blocks(rows=4, blocks=1, eviction="lru")
    _met([block], [1, 2, 3])
    _met([block], [1, 3])
    before = _held([block])
    assert _met([block], [7]) == {before[2]: 7}


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_loaded_state_goes_on_as_the_first(ranks):
    first, second = _blocks(1, eviction="distance_lfu"), _blocks(ranks, eviction="distance_lfu")
    _met(first, [*range(30), *range(10)])
    state, start = first[0].state_dict(), 0
    for block in second:
        end = start + block.output_size()
        own = {
            name: value[start:end] if len(value) == 24 else value for name, value in state.items()
        }
        block.load_state_dict(own)
        start = end
    for items in ([31, 31, 32], [5, 33], [33, 34, 34, 34]):
        assert _met(first, items) == _met(second, items)
    assert _held(first) == _held(second)
    assert int(second[0]._current_iter_tensor) == 4


def test_late_first_values_follow_from_the_item():
    values = first_values(np.array([7, 9, 2_000_000_000]), 64, seed=3, std=0.5)
    assert torch.equal(first_values(np.array([9, 7]), 64, 3, 0.5), values[[1, 0]])
    many = first_values(np.arange(3_000), 16, 0, 0.02)
    assert abs(many.std().item() - 0.02) < 3e-4
    assert abs(many.mean().item()) < 3e-4
    assert len(many.unique()) > 0.99 * many.numel()
    assert not torch.equal(first_values(np.array([7]), 64, 4, 0.5), values[:1])
