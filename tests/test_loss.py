"""Positives, counts and weights of the loss equal Eq. 6 and 8 written out."""

import collections

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.loss import (
    Counts,
    LossWeights,
    count,
    decision_weights,
    discount,
    find_positives,
    gate_loss,
    path_weights,
    positive_weights,
)
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.loss import LossConfig

ITEMS, HORIZON = 8, 4
LABELS = {item: sorted({item % 3, (item * 5) % 3}) for item in range(ITEMS)}
GENRE = ItemPrior(
    "genre", ["a", "b", "c"], *np.array([(i, g) for i, gs in LABELS.items() for g in gs]).T, ITEMS
)
TREE = PriorTree([TemporalPrior(2, HORIZON), GENRE], ITEMS)


def test_weights_are_computed_from_the_log_again_and_are_in_no_checkpoint():
    assert not LossWeights(3, HORIZON).state_dict()


@st.composite
def windows(draw):
    """(context length, extended sequence) of a few windows."""
    out = []
    for _ in range(draw(st.integers(0, 4))):
        context = draw(st.integers(1, 5))
        future = draw(st.integers(1, HORIZON))
        out.append(
            (
                context,
                draw(
                    st.lists(
                        st.integers(0, ITEMS - 1),
                        min_size=context + future,
                        max_size=context + future,
                    )
                ),
            )
        )
    return out


def _tensors(batch):
    items = [item for _, sequence in batch for item in sequence]
    context, end, start = [], [], 0
    for length, sequence in batch:
        context += range(start, start + length)
        end += [start + len(sequence)] * length
        start += len(sequence)
    return (torch.tensor(x, dtype=torch.int64) for x in (items, context, end))


def _expected(batch):
    """(token, offset, path, item) of every positive, from the definition."""
    out, token = [], 0
    for length, sequence in batch:
        for position in range(length):
            for offset in range(1, HORIZON + 1):
                if position + offset < len(sequence):
                    item = sequence[position + offset]
                    for number, path in enumerate(TREE.paths):
                        if path.groups[0] == (offset - 1) // 2 and path.groups[1] in LABELS[item]:
                            out.append((token, offset, number, item))
            token += 1
    return sorted(out)


@settings(deadline=None, max_examples=60)
@given(windows())
def test_positives_are_every_future_item_of_a_path_within_the_horizon(batch):
    items, context, end = _tensors(batch)
    found = find_positives(TREE, items, context, end, HORIZON)
    token = found.token_P[found.query_M].tolist()
    assert found.path_P[found.query_M].tolist() == found.path_M.tolist()
    assert found.query_M.tolist() == sorted(found.query_M.tolist())
    got = sorted(
        zip(
            token,
            found.offset_M.tolist(),
            found.path_M.tolist(),
            items[found.source_M].tolist(),
            strict=True,
        )
    )
    assert got == _expected(batch)
    pairs = list(zip(found.path_P.tolist(), found.token_P.tolist(), strict=True))
    assert pairs == sorted(set(pairs)), "pairs are distinct and sorted by path"


def _targets(batch):
    """How many targets each offset has."""
    tokens = [(position, len(sequence)) for length, sequence in batch for position in range(length)]
    return collections.Counter(
        offset
        for position, length in tokens
        for offset in range(1, HORIZON + 1)
        if position + offset < length
    )


def _random(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(windows(), windows(), st.floats(0.3, 1.0), st.integers(0, 99))
def test_the_sum_over_ranks_is_equation_8_over_the_whole_batch(first, second, gamma, seed):
    """With expected counts from a log whose shares are others than the batch's."""
    weight_K = _random(seed, len(TREE.paths))
    nll_of = _random(seed + 1, 100, HORIZON + 1, len(TREE.paths))
    targets_T = torch.tensor([400, 300, 200, 100])
    positives_KT = (_random(seed + 2, len(TREE.paths), HORIZON) * targets_T).long() + 1
    weights = LossWeights(len(TREE.paths), HORIZON)
    weights.positive_KT.copy_(
        positive_weights(positives_KT, targets_T, weight_K, discount(gamma, HORIZON))
    )

    found = [find_positives(TREE, *_tensors(batch), HORIZON) for batch in (first, second)]
    counts = Counts(*sum(count(part, HORIZON) for part in found))
    assert torch.equal(counts.trained_T, counts.target_T)
    loss = 0.0
    for part, shift in zip(found, (0, 50), strict=True):
        nll_M = nll_of[part.token_P[part.query_M] + shift, part.offset_M, part.path_M]
        loss += float((weights.of(part, counts) * nll_M).sum())

    expected = 0.0
    in_batch = _targets(first) + _targets(second)
    everyone = [
        (t + s, o, k) for batch, s in ((first, 0), (second, 50)) for t, o, k, _ in _expected(batch)
    ]
    for token, offset, path in everyone:
        factor = gamma ** (offset - 1) / sum(gamma**t for t in range(HORIZON))
        share = float(positives_KT[path, offset - 1]) / float(targets_T[offset - 1])
        nll = float(nll_of[token, offset, path])
        expected += factor * float(weight_K[path]) * nll / (in_batch[offset] * share)
    assert abs(loss - expected) < 1e-5 * max(1.0, abs(expected))


@settings(deadline=None, max_examples=60)
@given(windows(), windows())
def test_a_batch_that_is_the_log_has_the_mean_over_positives(first, second):
    """Then the expected count is the count, and L_kt the mean over the positives of path k at offset t."""
    found = [find_positives(TREE, *_tensors(batch), HORIZON) for batch in (first, second)]
    positives_KT = torch.zeros(len(TREE.paths), HORIZON, dtype=torch.int64)
    for _, offset, path, _ in [*_expected(first), *_expected(second)]:
        positives_KT[path, offset - 1] += 1
    counts = Counts(*sum(count(part, HORIZON) for part in found))
    weights = LossWeights(len(TREE.paths), HORIZON)
    ones_K = torch.ones(len(TREE.paths))
    weights.positive_KT.copy_(
        positive_weights(positives_KT, counts.target_T, ones_K, torch.ones(HORIZON))
    )

    for part in found:
        own_M = weights.of(part, counts)
        torch.testing.assert_close(own_M, 1.0 / positives_KT[part.path_M, part.offset_M - 1])


def test_a_positive_counts_the_same_however_rare_its_path_is():
    """With the paper's balance, w_k / (expected positives of path k) is one number for all paths."""
    positives_KT = torch.tensor([[9000, 9000], [30, 30], [1, 1], [0, 0]])
    weight_K = path_weights(LossConfig(), positives_KT.sum(1))
    weight_KT = positive_weights(positives_KT, positives_KT.sum(0), weight_K, discount(1.0, 2))
    torch.testing.assert_close(weight_KT[:3], weight_KT[0, 0].expand(3, 2))
    assert not weight_KT[3].any()


def test_targets_without_a_vector_of_their_own_are_not_learnt_but_decided():
    items, context, end = _tensors([(2, [0, 1, 2, 3])])
    trained_X = torch.tensor([True, True, False, True])
    found = find_positives(TREE, items, context, end, HORIZON, trained_X=trained_X)
    assert count(found, HORIZON).tolist() == [[1, 1, 1, 0], [2, 2, 1, 0]]


@settings(deadline=None, max_examples=60)
@given(windows(), windows(), st.floats(0.3, 1.0), st.integers(0, 99))
def test_the_gate_decides_for_every_target_and_item_set_alone(first, second, gamma, seed):
    """L_gate over two ranks, against every (token, offset, item set) written out; and its gradient."""
    generator = torch.Generator().manual_seed(seed)
    sets = torch.tensor(TREE.item_set_K)
    gated = torch.rand(TREE.item_sets, generator=generator) < 0.7
    parts = [
        (find_positives(TREE, *_tensors(batch), HORIZON), _tensors(batch), batch)
        for batch in (first, second)
    ]
    counts = Counts(*sum(count(found, HORIZON) for found, *_ in parts))
    totals = counts.target_T
    of_offset = discount(gamma, HORIZON)
    weights = LossWeights(len(TREE.paths), HORIZON)
    weights.decision_T.copy_(of_offset)
    for found, (_, context, end), batch in parts:
        logits = torch.randn(len(context), TREE.item_sets, generator=generator, requires_grad=True)
        loss = gate_loss(logits, gated, found, sets, weights.of_targets(counts))
        members = {(t, o, int(sets[k])) for t, o, k, _ in _expected(batch)}
        expected = torch.zeros(())
        for token, (place, stop) in enumerate(zip(context.tolist(), end.tolist(), strict=True)):
            for offset in range(1, min(HORIZON, stop - place - 1) + 1):
                for number in torch.nonzero(gated)[:, 0].tolist():
                    yes = (token, offset, number) in members
                    term = -torch.nn.functional.logsigmoid(
                        logits[token, number] if yes else -logits[token, number]
                    )
                    expected = expected + of_offset[offset - 1] / totals[offset - 1] * term
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
        if expected.requires_grad:
            fast, slow = (
                torch.autograd.grad(value, logits, retain_graph=True)[0]
                for value in (loss, expected)
            )
            torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("segments", [1, 2, 4, 8])
def test_heads_and_gate_are_on_one_scale_at_every_offset(segments):
    """-log p of a target's items and decisions about it weigh alike, however the horizon is divided."""
    positives_KT = torch.block_diag(*[torch.full((1, 8 // segments), 500)] * segments)
    weight_K = path_weights(LossConfig(), positives_KT.sum(1))
    heads_T = positive_weights(positives_KT, torch.full((8,), 500), weight_K, discount(0.9, 8)).sum(
        0
    )
    torch.testing.assert_close(decision_weights(positives_KT, weight_K, discount(0.9, 8)), heads_T)


def test_weights_are_shares_of_positives_raised_to_the_balance():
    counts = torch.tensor([9, 0, 1])
    torch.testing.assert_close(
        path_weights(LossConfig(balance=1.0), counts), torch.tensor([0.9, 0.0, 0.1])
    )
    torch.testing.assert_close(
        path_weights(LossConfig(balance=0.0), counts), torch.tensor([0.5, 0.0, 0.5])
    )
    torch.testing.assert_close(
        path_weights(LossConfig(balance=0.5), counts), torch.tensor([0.75, 0.0, 0.25])
    )
