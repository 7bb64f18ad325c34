"""The ranks' negatives together are one sample of each item set as its definition says, for any number of ranks."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import in_group_loss
from torchrec_priors.sampling.group_sampler import GroupSampler, OwnItems, draws_of_sets
from torchrec_priors.sampling.popularity import draw_weights
from torchrec_priors.settings.negatives import NegativesConfig


def _samplers(sets, frequency, ranks, seed=0, **config):
    """One sampler a rank over contiguous shards of the rows."""
    config, rows = NegativesConfig(**config), len(frequency)
    config.check()
    weights = draw_weights(frequency, config.popularity)
    if config.shared:
        sets = [*sets, np.arange(rows)]
    block = -(-rows // ranks)
    bounds = [min(rows, block * rank) for rank in range(ranks + 1)]
    own = [
        OwnItems.weighted(
            [each[(each >= low) & (each < high)] for each in sets], low, weights[low:high]
        )
        for low, high in itertools.pairwise(bounds)
    ]
    sizes = np.stack([items.sizes() for items in own])
    return [
        GroupSampler(items, sizes, config, rank=rank, seed=seed) for rank, items in enumerate(own)
    ]


def _union(samplers, step):
    """(ids, shifts) of all slots in order, the ids of each set and of what is shared, and what each rank drew."""
    draws = [sampler.draw(step) for sampler in samplers]
    first = draws[0]
    bounds = np.cumsum([*first.counts_S, first.shared])
    ids, shifts = np.full(bounds[-1], -1), np.full(bounds[-1], np.nan, np.float32)
    for rank, draw in enumerate(draws):
        assert [slots.tolist() for slots in draw.slots_W] == [
            slots.tolist() for slots in first.slots_W
        ], "no agreement"
        assert (draw.counts_S, draw.shared) == (first.counts_S, first.shared)
        assert (ids[first.slots_W[rank]] == -1).all()
        ids[first.slots_W[rank]] = draw.own_ids
        if draw.own_shifts is not None:
            shifts[first.slots_W[rank]] = draw.own_shifts
    return ids, shifts, np.split(ids, bounds[:-1]), draws


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=40),
    st.integers(1, 5_000),
    st.sampled_from([0, 0.25, 1]),
)
def test_a_total_is_divided_by_training_positives(positives, total, share):
    config = NegativesConfig(total=total, catalogue_share=share)
    draws = draws_of_sets(config, np.array(positives))
    if share == 1:
        assert not draws.any()
        return
    assert draws.min() >= 1
    assert draws.sum() == (
        max(config.in_group, len(positives)) if sum(positives) else len(positives)
    )
    wanted = np.array(positives) / max(sum(positives), 1) * max(config.in_group - len(positives), 0)
    assert (abs(draws - 1 - wanted) <= 1).all()


def test_a_sampler_draws_as_many_from_each_set_as_the_total_gives():
    rows = [np.arange(0, 50), np.arange(50, 60), np.arange(60, 100)]
    own = OwnItems.weighted(rows, 0, np.ones(100, np.int64))
    config = NegativesConfig(total=33)
    sampler = GroupSampler(
        own, own.sizes()[None], config, rank=0, seed=0, positives_S=np.array([10, 20, 0])
    )
    assert sampler.draw(0).counts_S == [11, 10, 1], (
        "of the second set's 21 draws there are 10 items"
    )


@st.composite
def _cases(draw):
    rows = draw(st.integers(1, 60))
    groups = draw(st.lists(st.sets(st.integers(0, rows - 1)), min_size=1, max_size=4))
    powers = draw(st.lists(st.integers(0, 9), min_size=rows, max_size=rows))
    config = {
        "per_set": draw(st.sampled_from([4, 8])),
        "popularity": draw(st.sampled_from([0.0, 0.5, 1.0, 4.0])),
        "catalogue_share": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "logq": draw(st.booleans()),
    }
    return (
        [np.array(sorted(group), np.int64) for group in groups],
        10 ** np.array(powers) - 1,
        config,
    )


@settings(deadline=None, max_examples=80)
@given(_cases(), st.integers(2, 4), st.integers(0, 9), st.integers(0, 9))
def test_the_union_does_not_depend_on_the_ranks(case, ranks, step, seed):
    sets, frequency, config = case
    alone, shifts, _, _ = _union(_samplers(sets, frequency, 1, seed, **config), step)
    together, others, parts, draws = _union(_samplers(sets, frequency, ranks, seed, **config), step)
    assert together.tolist() == alone.tolist()
    assert others.tobytes() == shifts.tobytes()
    assert np.isnan(shifts).all() != config["logq"] or not len(shifts)
    shared = round(config["catalogue_share"] * config["per_set"])
    sizes = [config["per_set"] - shared] * len(sets) + [shared]
    for members, served, size in zip([*sets, np.arange(len(frequency))], parts, sizes, strict=True):
        assert set(served) <= set(members)
        assert (np.diff(served) >= 0).all()
        assert len(served) == min(len(members), size)
        if len(members) <= size:
            assert served.tolist() == members.tolist()
    block = -(-len(frequency) // ranks)
    for rank, draw in enumerate(draws):
        assert ((draw.own_ids >= block * rank) & (draw.own_ids < block * (rank + 1))).all(), (
            "a row of another rank"
        )


def _chi_square_fits(drawn, members, weights):
    """Whether counts are those of `weights` over `members`, rare members taken together."""
    counts, expected = (
        np.bincount(drawn, minlength=members.max() + 1)[members],
        len(drawn) * weights / weights.sum(),
    )
    rare = expected < 10
    if rare.any():
        counts, expected = (
            np.append(counts[~rare], counts[rare].sum()),
            np.append(expected[~rare], expected[rare].sum()),
        )
    freedom = len(counts) - 1
    return ((counts - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("popularity", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_items_are_drawn_as_the_definition_says_wherever_their_shards_lie(popularity, share):
    random = np.random.default_rng(1)
    frequency = (10 ** random.uniform(0, 5, 1000)).astype(
        np.int64
    ) - 1  # over five orders of magnitude
    sets = [
        np.concatenate(
            [np.arange(0, 300), np.arange(900, 1000)]
        ),  # three quarters on the first of four ranks
        np.arange(250, 400),  # on the second rank alone
        random.permutation(1000)[:200],
    ]
    sets[-1].sort()
    samplers = _samplers(
        sets, frequency, 4, per_set=80, popularity=popularity, catalogue_share=share
    )
    steps = [_union(samplers, step)[2] for step in range(600)]
    expected = (frequency + 1.0) ** popularity
    for members, parts in zip([*sets, np.arange(1000)], zip(*steps, strict=True), strict=True):
        drawn = np.concatenate(parts)
        assert len(drawn) == 600 * round(80 * (share if len(members) == 1000 else 1 - share))
        if len(drawn):
            assert _chi_square_fits(drawn, members, expected[members])
            if popularity:
                assert not _chi_square_fits(drawn, members, np.ones(len(members))), (
                    "the test sees no difference"
                )


def test_one_item_that_outweighs_all_others_and_sets_of_one_item():
    frequency = np.zeros(50, np.int64)
    frequency[33] = 10**12
    ids, shifts, _, _ = _union(
        _samplers(
            [np.arange(50), np.array([7]), np.array([33])],
            frequency,
            3,
            per_set=10,
            popularity=2.0,
            logq=True,
        ),
        0,
    )
    assert ids.tolist() == [33] * 10 + [7, 33]
    np.testing.assert_allclose(shifts, [-np.log(10)] * 10 + [0, 0], rtol=1e-6)


def test_steps_and_seeds_differ_and_repeat():
    sets, frequency = [np.arange(500)], np.arange(500)

    def drawn(step, seed=0):
        return _union(_samplers(sets, frequency, 2, seed, per_set=8, popularity=0.5), step)[
            0
        ].tolist()

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert drawn(7) != drawn(7, seed=1)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_shifts_are_those_of_the_probabilities_and_the_share(share):
    frequency, alpha = np.arange(80) ** 3, 0.5
    sets = [np.arange(10, 60), np.arange(5)]
    samplers = _samplers(
        sets, frequency, 3, per_set=20, popularity=alpha, catalogue_share=share, logq=True
    )
    _, shifts, parts, draws = _union(samplers, 0)
    expected = []
    weight = (frequency + 1.0) ** alpha
    for members, ids, part in zip(
        [*sets, np.arange(80)], parts, [1 - share, 1 - share, share], strict=True
    ):
        probability = weight[ids] / weight[members].sum()
        expected += (
            [part * 1.0] * len(ids)
            if len(ids) == len(members)
            else list(part / (len(ids) * probability))
        )
    np.testing.assert_allclose(np.exp(shifts), expected, rtol=1e-5)
    assert draws[0].shared == round(20 * share)


@pytest.mark.parametrize(
    ("popularity", "share"), [(0.0, 0.0), (1.0, 0.0), (0.0, 0.5), (0.75, 0.5), (0.75, 1.0)], ids=str
)
def test_with_logq_the_sampled_sum_is_on_average_the_whole_sum(popularity, share):
    random = np.random.default_rng(0)
    frequency, table = random.integers(0, 200, 60), torch.from_numpy(random.normal(size=(60, 4)))
    members, positive = np.arange(15, 45), torch.tensor([20, 44])
    query = torch.from_numpy(0.5 * random.normal(size=(1, 4)))
    (sampler,) = _samplers(
        [members], frequency, 1, per_set=16, popularity=popularity, catalogue_share=share, logq=True
    )
    sums = []
    for step in range(1000):
        draw = sampler.draw(step)
        ids = torch.from_numpy(draw.own_ids)
        shifts = torch.from_numpy(draw.own_shifts).double()
        negatives = NegativeSets(table[ids], ids, draw.counts_S, draw.shared, shifts)
        positives = WeighedPositives(
            table, positive, positive, torch.zeros(2, dtype=torch.int64), torch.ones(2)
        )
        _, nll = in_group_loss(query, [1], positives, negatives)
        sums.append(torch.exp(nll + table[positive] @ query[0]))
    each = torch.exp(table @ query[0])
    expected = (1 - share) * each[members].sum() + share * each.sum()
    deviation = torch.stack(sums).std(0) / np.sqrt(len(sums))
    assert (deviation < 0.05 * expected).all(), "the test sees too little"
    assert ((torch.stack(sums).mean(0) - expected).abs() < 4 * deviation).all()
