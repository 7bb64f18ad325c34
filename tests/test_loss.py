"""Positives, counts and weights of the loss equal Eq. 6 and 8 written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.loss import (
    LossConfig,
    decision_weights,
    discount,
    find_positives,
    gate_loss,
    positive_weights,
)
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree

ITEMS, HORIZON = 8, 4
LABELS = {item: sorted({item % 3, (item * 5) % 3}) for item in range(ITEMS)}
GENRE = ItemPrior("genre", ["a", "b", "c"], *np.array([(i, g) for i, gs in LABELS.items() for g in gs]).T, ITEMS)
TREE = PriorTree([TemporalPrior(2, HORIZON), GENRE], ITEMS)


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
                draw(st.lists(st.integers(0, ITEMS - 1), min_size=context + future, max_size=context + future)),
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
        zip(token, found.offset_M.tolist(), found.path_M.tolist(), items[found.source_M].tolist(), strict=True)
    )
    assert got == _expected(batch)
    pairs = list(zip(found.path_P.tolist(), found.token_P.tolist(), strict=True))
    assert pairs == sorted(set(pairs)), "pairs are distinct and sorted by path"


def _random(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(st.lists(windows(), min_size=1, max_size=4), st.floats(0.3, 1.0), st.integers(0, 99))
def test_the_sum_over_batches_is_equation_8_of_the_whole_log(batches, gamma, seed):
    """Over an epoch of batches, of any sizes, L_kt is the mean over all positives of path k at offset t."""
    weight = _random(seed, len(TREE.paths))
    everyone = [positive for batch in batches for positive in _expected(batch)]
    positives_KT = torch.zeros(len(TREE.paths), HORIZON, dtype=torch.int64)
    for _, offset, path, _ in everyone:
        positives_KT[path, offset - 1] += 1
    weight_KT = positive_weights(positives_KT, len(batches), weight, discount(gamma, HORIZON))

    nlls, whole = {}, 0.0
    for number, batch in enumerate(batches):
        found = find_positives(TREE, *_tensors(batch), HORIZON)
        nll = _random(seed + number, 100, HORIZON + 1, len(TREE.paths))
        nll_M = nll[found.token_P[found.query_M], found.offset_M, found.path_M]
        whole += float((weight_KT[found.path_M, found.offset_M - 1] * nll_M).sum())
        for token, offset, path, _ in _expected(batch):
            nlls.setdefault((path, offset), []).append(float(nll[token, offset, path]))

    expected = 0.0
    for (path, offset), values in nlls.items():
        factor = gamma ** (offset - 1) / sum(gamma**t for t in range(HORIZON))
        expected += factor * float(weight[path]) * sum(values) / len(values)
    assert abs(whole / len(batches) - expected) < 1e-5


def test_a_positive_counts_the_same_however_rare_its_path_is():
    """With the paper's balance, w_k / (expected positives of path k) is one number for all paths."""
    positives_KT = torch.tensor([[9000, 9000], [30, 30], [1, 1], [0, 0]])
    weight_KT = positive_weights(positives_KT, 100, LossConfig().weights(positives_KT.sum(1)), discount(1.0, 2))
    torch.testing.assert_close(weight_KT[:3], weight_KT[0, 0].expand(3, 2))
    assert not weight_KT[3].any()


@settings(deadline=None, max_examples=60)
@given(windows(), windows(), st.floats(0.3, 1.0), st.integers(0, 99))
def test_the_gate_decides_for_every_target_and_item_set_alone(first, second, gamma, seed):
    """L_gate over two ranks, against every (token, offset, item set) written out; and its gradient."""
    generator = torch.Generator().manual_seed(seed)
    sets = torch.tensor(TREE.item_set_K)
    gated = torch.rand(TREE.item_sets, generator=generator) < 0.7
    weights = discount(gamma, HORIZON)
    for batch in (first, second):
        _, context, end = _tensors(batch)
        found = find_positives(TREE, *_tensors(batch), HORIZON)
        logits = torch.randn(len(context), TREE.item_sets, generator=generator, requires_grad=True)
        loss = gate_loss(logits, gated, found, sets, weights)
        members = {(t, o, int(sets[k])) for t, o, k, _ in _expected(batch)}
        expected = torch.zeros(())
        for token, (place, stop) in enumerate(zip(context.tolist(), end.tolist(), strict=True)):
            for offset in range(1, min(HORIZON, stop - place - 1) + 1):
                for number in torch.nonzero(gated)[:, 0].tolist():
                    yes = (token, offset, number) in members
                    term = -torch.nn.functional.logsigmoid(logits[token, number] if yes else -logits[token, number])
                    expected = expected + weights[offset - 1] * term
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
        if expected.requires_grad:
            fast, slow = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected))
            torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("segments", [1, 2, 4, 8])
def test_heads_and_gate_are_on_one_scale_at_every_offset(segments):
    """-log p of a target's items and decisions about it weigh alike, however the horizon is divided."""
    positives_KT = torch.block_diag(*[torch.full((1, 8 // segments), 500)] * segments)
    targets_T = torch.full((8,), 500)
    weight_K = LossConfig().weights(positives_KT.sum(1))
    parts = (10, weight_K, discount(0.9, 8))
    heads_T = positive_weights(positives_KT, *parts).sum(0)
    torch.testing.assert_close(decision_weights(targets_T, positives_KT, *parts), heads_T)


def test_weights_are_shares_of_positives_raised_to_the_balance():
    counts = torch.tensor([9, 0, 1])
    torch.testing.assert_close(LossConfig(balance=1.0).weights(counts), torch.tensor([0.9, 0.0, 0.1]))
    torch.testing.assert_close(LossConfig(balance=0.0).weights(counts), torch.tensor([0.5, 0.0, 0.5]))
    torch.testing.assert_close(LossConfig(balance=0.5).weights(counts), torch.tensor([0.75, 0.0, 0.25]))
