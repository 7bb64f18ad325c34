"""Baseline models against their papers' equations, written out position by position.

No position sees a later one.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from torchrec_priors.baselines import remi
from torchrec_priors.baselines.baseline import load_baseline
from torchrec_priors.baselines.learning import Learning
from torchrec_priors.baselines.mind import label_attention
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.errors import UserError
from torchrec_priors.heads.score import Score
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.settings.baseline import BaselineConfig

DIM, INTERESTS, CONTEXT = 8, 3, 12
LENGTHS = [5, 1, 12, 2]
CASES = {
    "comirec": {},
    "comirec positions": {"positions": True, "attention": 5},
    "comirec dynamic": {"routing": "dynamic"},
    "mind": {},
    "mind soft": {"power": 3, "adaptive": False},
    "remi": {},
}


def _baseline(case, **changes):
    torch.manual_seed(1)
    config = BaselineConfig(case.split()[0], INTERESTS, {**CASES[case], **changes})
    return load_baseline(config, DIM, CONTEXT).double()


def _states(seed=0, lengths=LENGTHS):
    torch.manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Jagged(torch.randn(int(offsets[-1]), DIM, dtype=torch.float64), offsets)


def _prefixes(states):
    """What each position has seen, the position itself last."""
    for low, high in zip(
        states.offsets_B1[:-1].tolist(), states.offsets_B1[1:].tolist(), strict=True
    ):
        for token in range(low, high):
            yield states.vector_Nd[low : token + 1]


def _squash(z):
    length = torch.sqrt(torch.sum(z * z))
    return length**2 / (1 + length**2) * z / length


def _attention(baseline, seen_jd):
    """ComiRec-SA: A = softmax(W2^T tanh(W1 H)), V = H A^T; (V, A)."""
    told_jd = seen_jd
    if baseline.interests.position is not None:
        told_jd = seen_jd + baseline.interests.position.weight[: len(seen_jd)]
    logit_Kj = baseline.interests.w2.weight @ torch.tanh(baseline.interests.w1.weight @ told_jd.T)
    weight_Kj = torch.stack([row.exp() / row.exp().sum() for row in logit_Kj])
    return weight_Kj @ seen_jd, weight_Kj


def _routing(seen_jd, maps, first_LK, iterations=3):
    """Dynamic routing item by item and capsule by capsule."""
    capsules, seen = len(maps), len(seen_jd)
    logit = [[first_LK[j, k] for k in range(capsules)] for j in range(seen)]
    says = [[maps[k] @ seen_jd[j] for k in range(capsules)] for j in range(seen)]
    for _ in range(iterations):
        weight = [torch.softmax(torch.stack(row), 0) for row in logit]
        u = [_squash(sum(weight[j][k] * says[j][k] for j in range(seen))) for k in range(capsules)]
        logit = [[logit[j][k] + u[k] @ says[j][k] for k in range(capsules)] for j in range(seen)]
    return torch.stack(u)


def _paper(case, baseline, seen_jd):
    """[K, d]"""
    if case in ("comirec", "comirec positions", "remi"):
        return _attention(baseline, seen_jd)[0]
    if case == "comirec dynamic":
        maps = baseline.interests.map.weight.view(INTERESTS, DIM, DIM)
        return _routing(seen_jd, maps, torch.zeros(CONTEXT, INTERESTS, dtype=torch.float64))
    own = (
        max(1, min(INTERESTS, math.floor(math.log2(len(seen_jd)))))
        if baseline.options.adaptive
        else INTERESTS
    )
    capsules = _routing(seen_jd, [baseline.shared.weight] * own, baseline.first_LK[:, :own])
    interests = torch.relu(capsules @ baseline.layer.weight.T + baseline.layer.bias)
    return torch.cat([interests, interests[:1].expand(INTERESTS - own, -1)])


@pytest.mark.parametrize("case", CASES)
def test_queries_are_the_papers(case):
    baseline, states = _baseline(case), _states()
    everywhere = torch.arange(len(states.vector_Nd))
    wanted = torch.stack([_paper(case, baseline, seen) for seen in _prefixes(states)])
    torch.testing.assert_close(baseline.queries(states, everywhere), wanted, rtol=1e-6, atol=1e-7)
    last = states.offsets_B1[1:] - 1
    torch.testing.assert_close(baseline.queries(states, last), wanted[last], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_a_query_does_not_change_when_later_items_do(case):
    baseline, states = _baseline(case), _states()
    other = Jagged(states.vector_Nd.clone(), states.offsets_B1)
    other.vector_Nd[8:] = 10 * torch.randn_like(other.vector_Nd[8:])  # 6..17 is the third history
    chosen = torch.tensor([0, 4, 5, 6, 7])
    torch.testing.assert_close(
        baseline.queries(states, chosen), baseline.queries(other, chosen), rtol=0, atol=1e-12
    )
    assert not torch.allclose(
        baseline.queries(states, torch.tensor([9])), baseline.queries(other, torch.tensor([9]))
    )


def _learning(states, seed=0, kind="dot"):
    torch.manual_seed(seed + 10)
    token_Q = torch.tensor([0, 2, 5, 6, 16, 17])
    query_M = torch.tensor([0, 0, 1, 2, 3, 4, 4, 5])
    item_Id, score = (
        torch.randn(9, DIM, dtype=torch.float64, requires_grad=True),
        Score(kind).double(),
    )
    source_M = torch.randint(9, (8,))
    positives = WeighedPositives(
        score.items(item_Id), source_M, source_M, query_M, torch.rand(8, dtype=torch.float64)
    )
    negatives = NegativeSets(score.items(item_Id.detach()[2:]), torch.arange(2, 9), [7])
    return Learning(token_Q, item_Id, positives, torch.ones(8), negatives, score, torch.tensor(6))


def _loss(case, baseline, states, learning):
    """The papers' training loss, target by target."""
    prefixes, total, of = list(_prefixes(states)), 0.0, learning.positives
    for place, source, weight in zip(of.query_M, of.source_M, of.weight_M, strict=True):
        queries = _paper(case, baseline, prefixes[learning.token_Q[place]])
        if case == "mind soft":
            scores = queries @ learning.vector_Xd[source]
            query = torch.softmax(scores**3, 0) @ queries
        else:
            each = [learning.score.queries(one) @ of.item_Xd[source] for one in queries]
            query = queries[int(torch.stack(each).argmax())]
        query, others = learning.score.queries(query), learning.negatives.ids_n != source
        score, logits = query @ of.item_Xd[source], learning.negatives.vectors_nd[others] @ query
        if case == "remi":
            hard = (
                len(logits)
                * (torch.softmax(baseline.options.beta * logits, 0) * logits.exp()).sum()
            )
        else:
            hard = logits.exp().sum()
        total = total - weight * torch.log(score.exp() / (score.exp() + hard))
    if case == "remi":
        tokens = learning.token_Q.tolist()
        bounds = list(itertools.pairwise(states.offsets_B1.tolist()))
        for token in tokens:
            low, high = next((low, high) for low, high in bounds if low <= token < high)
            positions = sum(
                low <= other < high for other in tokens
            )  # of its sequence: their mean, summed over the batch
            weight_Kj = _attention(baseline, prefixes[token])[1]
            centred = weight_Kj - weight_Kj.mean(1, keepdim=True)
            covariance = centred @ centred.T / DIM
            total = (
                total
                + baseline.options.regularisation * (covariance.diagonal() ** 2).sum() / positions
            )
    return total


@pytest.mark.parametrize("kind", ["dot", "cosine"])
@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_the_papers_and_gradients_are_finite(case, kind):
    baseline, states = _baseline(case), _states()
    states.vector_Nd.requires_grad_()
    learning = _learning(states, kind=kind)
    learnt = baseline.learn(states, learning)
    torch.testing.assert_close(
        learnt.loss, _loss(case, baseline, states, learning), rtol=1e-6, atol=1e-8
    )
    learnt.loss.backward()
    for name, value in (*baseline.named_parameters(), ("states", states.vector_Nd)):
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
        assert value.grad.abs().sum() > 0, name


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_takes_part_without_histories(case):
    baseline, empty = _baseline(case), torch.zeros(0, dtype=torch.int64)
    states = Jagged(torch.zeros(0, DIM, dtype=torch.float64), torch.zeros(1, dtype=torch.int64))
    whole = _learning(states)
    positives = WeighedPositives(
        whole.positives.item_Xd, empty, empty, empty, torch.zeros(0, dtype=torch.float64)
    )
    learning = Learning(
        empty, whole.vector_Xd, positives, empty, whole.negatives, whole.score, whole.positions
    )
    loss = baseline.learn(states, learning).loss
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(value.grad is not None and not value.grad.any() for value in baseline.parameters())


def test_the_regularisation_of_remi_is_a_sum_over_the_sequences_of_a_batch():
    """As the authors have it; each sequence counts once, however many positions it has and however a batch is split."""
    baselines, states = (
        [_baseline("remi", regularisation=weight) for weight in (1.0, 0.0)],
        _states(),
    )
    learning = _learning(states)
    whole = remi.over_sequences(torch.ones(6), learning.token_Q, states.offsets_B1)
    assert float(whole) == 3, "sequences that have a position with a target"
    twice = Jagged(
        states.vector_Nd.repeat(2, 1), torch.cat([states.offsets_B1, states.offsets_B1[1:] + 20])
    )
    both = replace(learning, token_Q=torch.cat([learning.token_Q, learning.token_Q + 20]))
    found = []
    for batch in ((states, learning), (twice, both)):
        with_it, without = (float(baseline.learn(*batch).loss.detach()) for baseline in baselines)
        found.append(with_it - without)
    assert found[1] == pytest.approx(2 * found[0]), "of twice the batch"


def test_a_target_goes_to_the_query_that_scores_it_highest_and_counts_once():
    states = _states()
    learning = _learning(states)
    query_QKd = torch.randn(6, INTERESTS, DIM, dtype=torch.float64, requires_grad=True)
    to = learning.route(query_QKd)
    assert to.positives.weight_M.sum().isclose(learning.positives.weight_M.sum())
    of = learning.positives
    wanted = {
        (
            int(place) * INTERESTS + int((query_QKd[place] @ of.item_Xd[source]).argmax()),
            int(source),
        )
        for place, source in zip(of.query_M, of.source_M, strict=True)
    }
    found = zip(
        to.pair_P[to.positives.query_M].tolist(), to.positives.source_M.tolist(), strict=True
    )
    assert set(found) == wanted
    learning.routed(query_QKd).loss.backward()
    trained = {int(pair) for pair in torch.nonzero(query_QKd.grad.flatten(0, 1).any(1))}
    assert trained == {pair for pair, _ in wanted}


def test_label_attention_of_a_high_power_takes_the_best_interest():
    query, target = (
        normalize(torch.rand(4, 3, 5), dim=-1) * 2,
        normalize(torch.rand(4, 5), dim=-1) * 2,
    )
    weight = label_attention(query, target, 40, torch.ones(4, 3, dtype=torch.bool))
    assert weight.argmax(1).equal(torch.einsum("mkd,md->mk", query, target).argmax(1))
    assert weight.amax(1).min() > 0.99


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("comirek", {}, "baseline.name: there is no 'comirek': did you mean 'comirec'?"),
        ("comirec", {"routin": "attention"}, "comirec has no 'routin': did you mean 'routing'?"),
        ("comirec", {"routing": "static"}, "baseline.options.routing = 'static'"),
        (
            "comirec",
            {"routing": "dynamic", "iterations": 0},
            "baseline.options.iterations = 0 must be at least 1",
        ),
        (
            "comirec",
            {"iterations": 2},
            "baseline.options.iterations has no effect with routing = 'attention'",
        ),
        (
            "comirec",
            {"routing": "dynamic", "positions": True},
            "baseline.options.positions has no effect",
        ),
        ("remi", {"attention": -1}, "baseline.options.attention = -1 must not be negative"),
        ("mind", {"power": -1}, "baseline.options.power = -1 must not be negative"),
        ("mind", {"power": "high"}, "baseline.options.power = 'high'"),
        ("remi", {"beta": -0.5}, "baseline.options.beta = -0.5 must be a number of at least 0"),
        ("mine.py", {}, "baseline.name: there is no file 'mine.py'"),
    ],
)
def test_mistakes(name, options, says):
    with pytest.raises(UserError) as error:
        load_baseline(BaselineConfig(name, INTERESTS, options), DIM, CONTEXT)
    assert says in str(error.value)
