"""Heads for asked pairs equal Eq. 4-5 written out for every token and path."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.heads.nodes import nodes
from torchrec_priors.heads.prior_heads import PriorHeads, heads_reference
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree

ITEMS = 6
GENRE = ItemPrior(
    "genre", ["a", "b", "c"], np.array([0, 1, 2, 3, 4, 5]), np.array([0, 0, 1, 1, 2, 2]), ITEMS
)
# Two of the nine combinations of genre and brand have no items.
BRAND = ItemPrior(
    "brand",
    ["x", "y", "z"],
    np.array([0, 1, 2, 3, 4, 5, 0]),
    np.array([0, 1, 1, 2, 2, 0, 2]),
    ITEMS,
)
TREES = {
    "none": [],
    "one": [GENRE],
    "temporal first": [TemporalPrior(2, 4), GENRE],
    "item first": [GENRE, TemporalPrior(4, 4)],
    "three": [TemporalPrior(2, 4), GENRE, BRAND],
}


def _heads(tree, dim, seed):
    heads = PriorHeads(tree, dim).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in heads.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return heads


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(TREES)),
    st.integers(0, 6),
    st.integers(1, 5),
    st.integers(0, 99),
    st.data(),
)
def test_equals_the_definition_forward_and_gradient(name, tokens, dim, seed, data):
    tree = PriorTree(TREES[name], ITEMS)
    every = [(path, token) for path in range(len(tree.paths)) for token in range(tokens)]
    chosen = sorted(data.draw(st.sets(st.sampled_from(every)))) if every else []
    path = torch.tensor([p for p, _ in chosen], dtype=torch.int64)
    token = torch.tensor([t for _, t in chosen], dtype=torch.int64)
    state = torch.randn(
        tokens, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    results = []
    for fast in (True, False):
        heads, states = _heads(tree, dim, seed), state.clone().requires_grad_()
        out = (
            heads(states, token, path)
            if fast
            else heads_reference(heads, tree, states)[token, path]
        )
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        ((out * weight).sum() + 0 * states.sum()).backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in heads.parameters()]
        results.append([out, states.grad, *grads])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("kind", ["matrix", "vector"])
@pytest.mark.parametrize("minimum", [0, 3])
@pytest.mark.parametrize("composition", ["hierarchical", "multiplicative", "additive"])
@pytest.mark.parametrize("name", sorted(TREES))
def test_the_queries_of_every_path_of_a_state_equal_the_definition(
    name, composition, minimum, kind
):
    tree = PriorTree(TREES[name], ITEMS, composition)
    # With a minimum, some nodes have no adapter: their paths end further up.
    depths = nodes(tree, torch.arange(len(tree.paths)) % 5, minimum)
    heads = PriorHeads(tree, 4, depths, kind=kind).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in heads.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    states = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    expected = heads_reference(heads, tree, states)
    for state, of_state in zip(states, expected, strict=True):
        torch.testing.assert_close(heads.every_path(state), of_state)


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_head_begins_as_the_user_state_and_learns_from_there(name):
    tree = PriorTree(TREES[name], ITEMS)
    heads, state = PriorHeads(tree, 4), torch.randn(3, 4)
    path = torch.arange(len(tree.paths)).repeat_interleave(3)
    token = torch.arange(3).repeat(len(tree.paths))
    out = heads(state, token, path)
    assert torch.equal(out, state[token])
    out.square().sum().backward() if tree.levels else None
    assert all(parameter.grad.abs().sum() > 0 for parameter in heads.parameters())


def test_an_upper_embedding_is_shared_by_all_branches_below_its_group():
    tree = PriorTree(TREES["temporal first"], ITEMS)
    heads = PriorHeads(tree, 4)
    heads.embeddings[0].data[1] = 5.0  # long-term
    state = torch.zeros(1, 4)
    path = torch.arange(len(tree.paths))
    out = heads(state, torch.zeros_like(path), path)
    long_term = [path.groups[0] == 1 for path in tree.paths]
    assert (out[:, 0] == 5.0).tolist() == long_term
