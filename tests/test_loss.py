"""Positives, counts and weights of the loss equal Eq. 6 and 8 written out."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.loss import LossConfig, count, discount, find_positives, gate_loss, prior_weights
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


@settings(deadline=None, max_examples=60)
@given(windows(), windows(), st.floats(0.3, 1.0), st.integers(0, 99))
def test_the_sum_over_ranks_is_equation_8_over_the_whole_batch(first, second, gamma, seed):
    weight = torch.rand(len(TREE.paths), generator=torch.Generator().manual_seed(seed))
    nll_of = torch.rand(100, HORIZON + 1, len(TREE.paths), generator=torch.Generator().manual_seed(seed + 1))
    parts = []
    for batch, shift in ((first, 0), (second, 50)):
        found = find_positives(TREE, *_tensors(batch), HORIZON)
        nll = nll_of[found.token_P[found.query_M] + shift, found.offset_M, found.path_M]
        parts.append((found, nll))
    counts = sum(count(found, len(TREE.paths), HORIZON) for found, _ in parts)[:-1]
    loss = sum((prior_weights(found, counts, weight, discount(gamma, HORIZON)) * nll).sum() for found, nll in parts)

    expected = 0.0
    everyone = [(t + s, o, k) for batch, s in ((first, 0), (second, 50)) for t, o, k, _ in _expected(batch)]
    for offset in range(1, HORIZON + 1):
        for path in range(len(TREE.paths)):
            cell = [nll_of[t, o, k].item() for t, o, k in everyone if (o, k) == (offset, path)]
            if cell:
                factor = gamma ** (offset - 1) / sum(gamma**t for t in range(HORIZON))
                expected += factor * weight[path].item() * sum(cell) / len(cell)
    assert abs(float(loss) - expected) < 1e-5


@settings(deadline=None, max_examples=60)
@given(windows(), windows(), st.floats(0.3, 1.0), st.integers(0, 99))
def test_the_gate_decides_for_every_target_and_item_set_alone(first, second, gamma, seed):
    """L_gate over two ranks, against every (token, offset, item set) written out; and its gradient."""
    generator = torch.Generator().manual_seed(seed)
    sets = torch.tensor(TREE.item_set_K)
    gated = torch.rand(TREE.item_sets, generator=generator) < 0.7
    parts = [(find_positives(TREE, *_tensors(batch), HORIZON), _tensors(batch), batch) for batch in (first, second)]
    totals = sum(count(found, len(TREE.paths), HORIZON)[-1] for found, *_ in parts)
    factors = discount(gamma, HORIZON)
    for found, (_, context, end), batch in parts:
        logits = torch.randn(len(context), TREE.item_sets, generator=generator, requires_grad=True)
        loss = gate_loss(logits, gated, found, sets, totals, factors)
        members = {(t, o, int(sets[k])) for t, o, k, _ in _expected(batch)}
        expected = torch.zeros(())
        for token, (place, stop) in enumerate(zip(context.tolist(), end.tolist(), strict=True)):
            for offset in range(1, min(HORIZON, stop - place - 1) + 1):
                for number in torch.nonzero(gated)[:, 0].tolist():
                    yes = (token, offset, number) in members
                    term = -torch.nn.functional.logsigmoid(logits[token, number] if yes else -logits[token, number])
                    expected = expected + factors[offset - 1] / totals[offset - 1] * term
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
        if expected.requires_grad:
            fast, slow = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected))
            torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)


def test_weights_are_shares_of_positives_raised_to_the_balance():
    counts = torch.tensor([9, 0, 1])
    torch.testing.assert_close(LossConfig(balance=1.0).weights(counts), torch.tensor([0.9, 0.0, 0.1]))
    torch.testing.assert_close(LossConfig(balance=0.0).weights(counts), torch.tensor([0.5, 0.0, 0.5]))
    torch.testing.assert_close(LossConfig(balance=0.5).weights(counts), torch.tensor([0.75, 0.0, 0.25]))
