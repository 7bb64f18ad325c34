"""Every composition, form of adapter and back-off equals its definition, node by node, forward and gradient."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import cases

from torchrec_priors.errors import UserError
from torchrec_priors.heads.composition import check_budget, count_parameters, make_heads
from torchrec_priors.heads.nodes import backed_off, nodes, say_backed_off
from torchrec_priors.heads.prior_heads import heads_reference
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.priors import PriorsConfig

D = 3


@st.composite
def models(draw):
    """(tree, configuration, training positives of each path, heads of random numbers)."""
    tree = draw(cases()).tree
    positives = draw(
        st.lists(st.integers(0, 4), min_size=len(tree.paths), max_size=len(tree.paths))
    )
    config = PriorsConfig(
        composition=tree.composition,
        adapters=draw(st.sampled_from(["matrix", "vector"])),
        min_positives=draw(st.integers(0, 6)),
    )
    heads = make_heads(
        tree, D, config, nodes(tree, torch.tensor(positives), config.min_positives)
    ).double()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    for parameter in heads.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return tree, config, positives, heads


def _ways(tree):
    """The nodes a path goes through, from above: its beginnings, or the path itself."""
    if tree.composition == "hierarchical":
        return [
            [path.groups[: depth + 1] for depth in range(len(path.groups))] for path in tree.paths
        ]
    return [[(number,)] if path.groups else [] for number, path in enumerate(tree.paths)]


def _adapters(tree, positives, minimum):
    """For each depth, the nodes that have an adapter, in order; what a node has is what its paths have."""
    ways = _ways(tree)
    total = {}
    for way, count in zip(ways, positives, strict=True):
        for node in way:
            total[node] = total.get(node, 0) + count
    depths = {len(node) for node in total}
    return [
        sorted(n for n, count in total.items() if len(n) == depth and count >= minimum)
        for depth in sorted(depths)
    ]


def _definition(tree, config, positives, heads, state):
    """Eq. 2 or 4-5 for every path: [N, K, d]."""
    kept = _adapters(tree, positives, config.min_positives)
    queries = []
    for way in _ways(tree):
        z = state
        for depth, node in enumerate(way):
            if node not in kept[depth]:
                continue
            weight = heads.adapters[depth][kept[depth].index(node)]
            if config.adapters == "vector":
                z = z + weight
                continue
            embedding = heads.embeddings[depth - 1][node[-2]] if depth else 0.0
            z = z + F.silu(z @ weight.T) + embedding
        queries.append(z)
    return torch.stack(queries, 1)


@settings(deadline=None, max_examples=150)
@given(models(), st.integers(0, 4), st.data())
def test_queries_and_gradients_are_those_of_the_definition(model, tokens, data):
    tree, config, positives, heads = model
    every = [(path, token) for path in range(len(tree.paths)) for token in range(tokens)]
    chosen = sorted(data.draw(st.sets(st.sampled_from(every), max_size=12))) if every else []
    path, token = (torch.tensor([pair[n] for pair in chosen], dtype=torch.int64) for n in (0, 1))
    state = torch.randn(
        tokens, D, generator=torch.Generator().manual_seed(tokens), dtype=torch.float64
    )
    ways = [
        lambda states: heads(states, token, path),
        lambda states: _definition(tree, config, positives, heads, states)[token, path],
        lambda states: heads_reference(heads, tree, states)[token, path],
    ]
    results = []
    for way in ways:
        heads.zero_grad()
        states = state.clone().requires_grad_()
        out = way(states)
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        ((out * weight).sum() + 0 * states.sum()).backward()
        grads = [
            torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in heads.parameters()
        ]
        results.append([out, states.grad, *grads])
    for slow in results[1:]:
        for one, other in zip(results[0], slow, strict=True):
            torch.testing.assert_close(one, other)


@settings(deadline=None, max_examples=60)
@given(models())
def test_every_parameter_takes_part_where_there_is_nothing_to_predict(model):
    """DDP waits for all gradients, those of a rank without positives as well."""
    _, _, _, heads = model
    none = torch.zeros(0, dtype=torch.int64)
    out = heads(torch.zeros(0, D, dtype=torch.float64, requires_grad=True), none, none)
    out.sum().backward()
    assert all(
        parameter.grad is not None and not parameter.grad.any() for parameter in heads.parameters()
    )


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(1, 6))
def test_a_head_costs_d_squared_and_a_group_above_it_d(case, dim):
    tree = case.tree
    config = PriorsConfig(composition=tree.composition)
    ways = _ways(tree)
    distinct = len({node for way in ways for node in way})
    above = (
        sum(len(level.groups) for level in tree.levels[:-1])
        if tree.composition == "hierarchical"
        else 0
    )
    heads = make_heads(tree, dim, config, nodes(tree))
    parameters = sum(parameter.numel() for parameter in heads.parameters())
    assert parameters == count_parameters(tree, dim, config) == distinct * dim**2 + above * dim
    told = PriorsConfig(composition=tree.composition, adapters="vector")
    vectors = sum(
        parameter.numel() for parameter in make_heads(tree, dim, told, nodes(tree)).parameters()
    )
    assert vectors == count_parameters(tree, dim, told) == distinct * dim


@settings(deadline=None, max_examples=60)
@given(models())
def test_paths_without_an_adapter_name_the_node_whose_query_they_have(model):
    tree, config, positives, _ = model
    kept = _adapters(tree, positives, config.min_positives)
    expected = []
    for path, way in zip(tree.paths, _ways(tree), strict=True):
        has = [node for depth, node in enumerate(way) if node in kept[depth]]
        name = " / ".join(path.name.split(" / ")[: len(has)])
        expected.append(None if len(has) == len(way) else name)
    assert backed_off(tree, nodes(tree, torch.tensor(positives), config.min_positives)) == expected


def test_counts_of_another_number_of_paths_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        nodes(PriorTree([TemporalPrior(4, 4)], 2), torch.tensor([5, 1, 0]), 2)


def test_back_off_is_said_in_one_line(caplog):
    tree = PriorTree([TemporalPrior(4, 4)], 2)
    with caplog.at_level("INFO", logger="torchrec_priors"):
        say_backed_off(tree, nodes(tree, torch.tensor([5, 1, 0, 2]), 2), 2)
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 4 prior paths have fewer than 2 training positives and no adapter of their own: next 2, next 3"
    ]


@pytest.mark.parametrize("adapters", ["matrix", "vector"])
@pytest.mark.parametrize("composition", ["hierarchical", "multiplicative", "additive"])
def test_first_values_are_zero_or_normal_from_the_seed(composition, adapters):
    tree = PriorTree([TemporalPrior(4, 4)], 2, composition)
    config = PriorsConfig(adapters=adapters, init_std=0.5)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(make_heads(tree, 32, config, nodes(tree)).adapters[0].detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert 0.3 < float(drawn[0].std()) < 0.7
    assert not any(
        p.any()
        for p in make_heads(tree, 32, PriorsConfig(adapters=adapters), nodes(tree)).parameters()
    )


def test_a_tree_above_the_budget_is_refused_with_its_size():
    tree = PriorTree([TemporalPrior(4, 4)], 2, "additive")
    check_budget(tree, 5, PriorsConfig(max_parameters=100))
    with pytest.raises(
        UserError,
        match=r"4 paths have 100 parameters at model.dim = 5, more than .*max_parameters = 99",
    ):
        check_budget(tree, 5, PriorsConfig(max_parameters=99))
    assert "paths" not in vars(tree), "the paths were made"
    assert len(make_heads(tree, 5, PriorsConfig(), nodes(tree)).adapters[0]) == 4
