"""Pooling and routing over every prefix equal their definitions, forward and gradient."""

import pytest
import torch

from torchrec_priors.ops import prefixes
from torchrec_priors.ops.dynamic_routing import dynamic_routing, dynamic_routing_reference
from torchrec_priors.ops.interest_attention import interest_attention, interest_attention_reference

WIDTH, INTERESTS = 6, 3
LENGTHS = ([1], [4, 1, 9], [1, 1, 1], [30, 2, 7, 1, 12], [0, 5, 0, 3], [])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(prefixes, "_CELLS", 60)


def _some(lengths, asked, seed):
    torch.manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    tokens = int(offsets[-1])
    chosen = {
        "all": torch.arange(tokens),
        "last": offsets[1:][offsets.diff() > 0] - 1,
        "some": torch.nonzero(torch.rand(tokens) < 0.4)[:, 0],
    }[asked]
    return offsets, chosen, tokens


def _same(fast, slow, inputs):
    leaves = [value.clone().requires_grad_() for value in inputs]
    others = [value.clone().requires_grad_() for value in inputs]
    found, wanted = fast(*leaves), slow(*others)
    found, wanted = (
        (part,) if isinstance(part, torch.Tensor) else part for part in (found, wanted)
    )
    total = sum(
        (part * torch.linspace(1, 2, part.numel(), dtype=part.dtype).view_as(part)).sum()
        for part in found
    )
    total.backward()
    other = sum(
        (part * torch.linspace(1, 2, part.numel(), dtype=part.dtype).view_as(part)).sum()
        for part in wanted
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    if other.requires_grad:
        other.backward()
        for ours, theirs in zip(leaves, others, strict=True):
            torch.testing.assert_close(
                ours.grad, theirs.grad if theirs.grad is not None else torch.zeros_like(theirs)
            )
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("asked", ["all", "last", "some"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention(lengths, asked):
    offsets, chosen, tokens = _some(lengths, asked, 0)
    score, x = (
        5 * torch.randn(tokens, INTERESTS, dtype=torch.float64),
        torch.randn(tokens, WIDTH, dtype=torch.float64),
    )
    _same(
        lambda *given: interest_attention(*given, offsets, chosen),
        lambda *given: interest_attention_reference(*given, offsets, chosen),
        (score, x),
    )


def test_attention_of_scores_far_apart_is_finite():
    score = torch.tensor([[-400.0], [0.0], [400.0]], requires_grad=True)
    x = torch.eye(3, requires_grad=True)
    means, _ = interest_attention(score, x, torch.tensor([0, 3]), torch.arange(3))
    torch.testing.assert_close(means[:, 0], torch.eye(3))
    means.sum().backward()
    assert score.grad.isfinite().all()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("asked", ["all", "last", "some"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_routing(lengths, asked, shared):
    offsets, chosen, tokens = _some(lengths, asked, 1)
    x = torch.randn(tokens, 1 if shared else INTERESTS, WIDTH, dtype=torch.float64)
    first = torch.randn(40, INTERESTS, dtype=torch.float64)
    open_QK = torch.rand(len(chosen), INTERESTS) < 0.6
    open_QK[:, 0] = True
    _same(
        lambda given: dynamic_routing(given, first, offsets, chosen, 3, open_QK),
        lambda given: dynamic_routing_reference(given, first, offsets, chosen, 3, open_QK),
        (x,),
    )
