"""The repeat head equals its definition, position by position, and starts as personal popularity."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.heads.repeat_head import RepeatHead, find_repeats

DIM = 4


@st.composite
def windows(draw):
    """Items of extended sequences with few distinct items, and how many of each are context."""
    lengths = draw(st.lists(st.integers(2, 9), min_size=1, max_size=4))
    items = [draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)) for n in lengths]
    contexts = [draw(st.integers(1, n - 1)) for n in lengths]
    return items, contexts


def _tensors(items, contexts):
    """item_X, context_N, end_N and offsets_B1 of windows, as a batch has them."""
    context, end, first = [], [], 0
    for window, length in zip(items, contexts, strict=True):
        context += range(first, first + length)
        first += len(window)
        end += [first] * length
    offsets = torch.tensor([0, *contexts]).cumsum(0)
    item_X = torch.tensor([item for window in items for item in window])
    return item_X, torch.tensor(context), torch.tensor(end), offsets


def _times(contexts):
    """Random times of all positions, ascending within each history, from 0 s to some days apart."""
    gaps = [torch.randint(0, 2, (n,)) * 1000 * 2 ** torch.randint(0, 19, (n,)) for n in contexts]
    return torch.cat([gap.cumsum(0) for gap in gaps])


def _definition(head, items, contexts, horizon, state_Nd, input_Nd, time_N):
    """Each target's -log P, from the equations of the module."""
    losses, first = [], 0
    for window, length in zip(items, contexts, strict=True):
        h_L = state_Nd[first : first + length]
        x_L = input_Nd[first : first + length]
        time_L = time_N[first : first + length].tolist()
        for n in range(length):
            logit = h_L[n] @ head.gate_weight + head.gate_bias
            recency = torch.stack(
                [head.recency[(n - m + 1).bit_length() - 1] for m in range(n + 1)]
            )
            score_m = x_L[: n + 1] @ (head.weight @ h_L[n]) + recency
            if head.since is not None:
                seconds = [(time_L[n] - time_L[m]) // 1000 for m in range(n + 1)]
                score_m = score_m + torch.stack(
                    [head.since[(second + 1).bit_length() - 1] for second in seconds]
                )
            a_m = torch.softmax(score_m, 0)
            for target in window[n + 1 : n + 1 + horizon]:
                holds = torch.tensor([item == target for item in window[: n + 1]])
                if holds.any():
                    losses.append(-F.logsigmoid(logit) - a_m[holds].sum().log())
                else:
                    losses.append(-F.logsigmoid(-logit))
        first += length
    return torch.stack(losses)


def _head(random=True, time_bias=False):
    torch.manual_seed(0)
    head = RepeatHead(DIM, 8, time_bias).double()
    if random:
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
    return head


@settings(deadline=None, max_examples=40)
@given(windows(), st.integers(1, 3), st.booleans())
def test_equals_the_definition_forward_and_gradient(batch, horizon, time_bias):
    items, contexts = batch
    item_X, context_N, end_N, offsets = _tensors(items, contexts)
    head = _head(time_bias=time_bias)
    time_N = _times(contexts)
    state_Nd, input_Nd = torch.randn(2, len(context_N), DIM, dtype=torch.float64).unbind()
    state_Nd.requires_grad_()
    input_Nd.requires_grad_()

    targets = find_repeats(item_X, context_N, end_N, offsets, horizon)
    fast = head.loss(state_Nd, input_Nd, offsets, targets, time_N)
    slow = _definition(head, items, contexts, horizon, state_Nd, input_Nd, time_N)
    torch.testing.assert_close(fast, slow)

    weight_M = torch.rand(len(slow), dtype=torch.float64)
    wanted = [state_Nd, input_Nd, *head.parameters()]
    of_fast = torch.autograd.grad((weight_M * fast).sum(), wanted)
    of_slow = torch.autograd.grad((weight_M * slow).sum(), wanted, allow_unused=True)
    for one, other in zip(of_fast, of_slow, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other)


@settings(deadline=None, max_examples=20)
@given(windows(), st.booleans())
@torch.no_grad()
def test_shares_at_the_last_position_are_those_of_the_loss(batch, time_bias):
    items, contexts = batch
    # Every item of a context is a target of its last position, one at a time.
    head = _head(time_bias=time_bias)
    time_N = _times(contexts)
    histories = [window[:length] for window, length in zip(items, contexts, strict=True)]
    offsets = torch.tensor([0, *contexts]).cumsum(0)
    state_Nd, input_Nd = torch.randn(2, sum(contexts), DIM, dtype=torch.float64).unbind()
    logit_B, log_share_N = head.last_shares(state_Nd, input_Nd, offsets, time_N)

    for number, history in enumerate(histories):
        first, last = offsets[number], offsets[number + 1]
        share = log_share_N[first:last].exp()
        assert float(share.sum()) == pytest.approx(1)
        for item in set(history):
            extended = [[*window, item if window is history else 9] for window in histories]
            item_X, context_N, end_N, bounds = _tensors(extended, contexts)
            targets = find_repeats(item_X, context_N, end_N, bounds, 1)
            losses = head.loss(state_Nd, input_Nd, bounds, targets, time_N)
            (loss,) = losses[targets.position_M == last - 1]
            own = sum(
                value for value, of in zip(share.tolist(), history, strict=True) if of == item
            )
            expected = -F.logsigmoid(logit_B[number]) - math.log(own)
            assert float(loss) == pytest.approx(float(expected))


def test_at_first_an_items_share_is_its_share_of_the_history():
    head = RepeatHead(DIM, 8)
    offsets = torch.tensor([0, 4, 5])
    logit_B, log_share_N = head.last_shares(torch.randn(5, DIM), torch.randn(5, DIM), offsets)
    assert logit_B.tolist() == [0, 0]
    torch.testing.assert_close(log_share_N.exp(), torch.tensor([0.25, 0.25, 0.25, 0.25, 1.0]))


def test_targets_that_are_new_or_beyond_the_window_are_told_apart():
    item_X, context_N, end_N, offsets = _tensors([[7, 8, 7, 9]], [2])
    targets = find_repeats(item_X, context_N, end_N, offsets, 3)
    # From 7: 8 is new, 7 is a repeat, 9 is new. From 8: 7 is a repeat, 9 is new, nothing is left.
    assert targets.new_NT.tolist() == [[True, False, True], [False, True, False]]
    assert targets.repeat_M.tolist() == [False, True, False, True, False]
    assert targets.offset_M.tolist() == [1, 2, 3, 1, 2]


@pytest.mark.parametrize("time_bias", [False, True])
def test_no_histories_give_every_parameter_a_gradient(time_bias):
    head = RepeatHead(DIM, 8, time_bias)
    none = torch.zeros(0, dtype=torch.int64)
    targets = find_repeats(none, none, none, torch.zeros(1, dtype=torch.int64), 2)
    empty = torch.zeros(0, DIM)
    head.loss(empty, empty, torch.zeros(1, dtype=torch.int64), targets).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_large_scores_do_not_overflow():
    head = _head()
    item_X, context_N, end_N, offsets = _tensors([[1, 2, 1, 2]], [3])
    targets = find_repeats(item_X, context_N, end_N, offsets, 1)
    far = 1e3 * torch.randn(2, 3, DIM, dtype=torch.float64)
    assert head.loss(far[0], far[1], offsets, targets).isfinite().all()
