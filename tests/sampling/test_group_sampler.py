"""The ranks' negatives together are one uniform sample of each item set, the same for any number of ranks."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.sampling.group_sampler import GroupSampler


def _samplers(sets, rows, ranks, per_set=8, seed=0):
    """One sampler a rank over contiguous shards of `rows` rows."""
    block = -(-rows // ranks)
    bounds = [min(rows, block * rank) for rank in range(ranks + 1)]
    own = [
        [members[(members >= low) & (members < high)] for members in sets] for low, high in itertools.pairwise(bounds)
    ]
    counts = np.array([[len(piece) for piece in pieces] for pieces in own])
    return [GroupSampler(pieces, counts, rank=rank, per_set=per_set, seed=seed) for rank, pieces in enumerate(own)]


def _union(samplers, step):
    """All slots in order, and what each rank served."""
    draws = [sampler.draw(step) for sampler in samplers]
    slots = draws[0].slots_W
    out = np.full(sum(draws[0].counts_S), -1)
    for rank, draw in enumerate(draws):
        assert [mine.tolist() for mine in draw.slots_W] == [mine.tolist() for mine in slots], "ranks disagree"
        out[slots[rank]] = draw.own_ids
    return out, draws


@st.composite
def _sets(draw):
    rows = draw(st.integers(1, 60))
    groups = draw(st.lists(st.sets(st.integers(0, rows - 1)), min_size=1, max_size=4))
    return [np.array(sorted(group), np.int64) for group in groups], rows


@settings(deadline=None, max_examples=60)
@given(_sets(), st.integers(1, 5), st.integers(0, 9), st.integers(0, 9))
def test_the_union_does_not_depend_on_the_ranks(case, ranks, step, seed):
    sets, rows = case
    alone, _ = _union(_samplers(sets, rows, 1, seed=seed), step)
    together, draws = _union(_samplers(sets, rows, ranks, seed=seed), step)
    assert together.tolist() == alone.tolist()
    bounds = np.cumsum([0, *draws[0].counts_S])
    for members, low, high in zip(sets, bounds[:-1], bounds[1:], strict=True):
        served = together[low:high]
        assert set(served) <= set(members)
        assert (np.diff(served) >= 0).all()
        assert len(served) == min(len(members), 8)
        if len(members) <= 8:
            assert served.tolist() == members.tolist()


@settings(deadline=None, max_examples=30)
@given(_sets(), st.integers(2, 4))
def test_a_rank_serves_its_own_rows_alone(case, ranks):
    sets, rows = case
    block = -(-rows // ranks)
    for rank, sampler in enumerate(_samplers(sets, rows, ranks)):
        ids = sampler.draw(0).own_ids
        assert ((ids >= block * rank) & (ids < block * (rank + 1))).all()


def test_every_item_is_drawn_as_often_as_any_other_wherever_its_shard_lies():
    members = np.concatenate([np.arange(0, 300), np.arange(900, 1000)])  # three quarters on the first of four ranks
    samplers = _samplers([members], 1000, 4, per_set=100)
    drawn = np.concatenate([_union(samplers, step)[0] for step in range(2000)])
    counts = np.bincount(drawn, minlength=1000)[members]
    expected = len(drawn) / len(members)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 399 + 4 * np.sqrt(2 * 399)


def test_steps_and_seeds_differ_and_repeat():
    sets, rows = [np.arange(500)], 500
    first, again = (_union(_samplers(sets, rows, 2), 7)[0].tolist() for _ in range(2))
    assert first == again
    assert first != _union(_samplers(sets, rows, 2), 8)[0].tolist()
    assert first != _union(_samplers(sets, rows, 2, seed=1), 7)[0].tolist()


def test_the_shift_makes_the_sampled_sum_an_estimate_of_the_whole():
    draw = _samplers([np.arange(80), np.arange(5)], 80, 1)[0].draw(0)
    np.testing.assert_allclose(draw.shifts_S, [np.log(80 / 8), 0.0])
