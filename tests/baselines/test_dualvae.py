"""DualVAE's terms are those of its equations, written out in loops."""

import math

import pytest
import torch

from torchrec_priors.baselines.aspects import AspectScore
from torchrec_priors.baselines.baseline import load_baseline
from torchrec_priors.baselines.dualvae import AspectInference, contrast
from torchrec_priors.baselines.learning import Learning
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.errors import UserError
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.keyed_dropout import DropoutKeys
from torchrec_priors.settings.baseline import BaselineConfig

D, A, W = 6, 3, 4
LENGTHS = [4, 1]
OFFSETS = torch.tensor([0, 4, 5])
KEYS = DropoutKeys([11, 12], LENGTHS)


def _parts(kind="dot", dropout=0.0):
    torch.manual_seed(0)
    score, inference = AspectScore(kind, D, A, W).double(), AspectInference(W, dropout).double()
    for parameter in (
        *score.parameters(),
        *inference.parameters(),
    ):  # nothing at a value that would hide it
        torch.nn.init.normal_(parameter, std=0.7)
    return score, inference


def _dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def _cosine(x, y):
    return _dot(x, y) / math.sqrt(_dot(x, x) * _dot(y, y))


def _softmax(logits):
    exponentials = [math.exp(logit) for logit in logits]
    return [value / sum(exponentials) for value in exponentials]


def _linear(x, layer):
    return [
        _dot(x, row) + b for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def _norm(x, layer):
    mean = sum(x) / len(x)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in x) / len(x) + layer.eps)
    rows = zip(x, layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [scale * (value - mean) / deviation + shift for value, scale, shift in rows]


def _aspects(vector, score):
    """(x, c) of an item or a state."""
    whole = _linear(vector, score.project)
    x = [whole[a * W : (a + 1) * W] for a in range(A)]
    prototypes = score.prototype_Aw.tolist()
    return x, _softmax([_cosine(x[a], prototypes[a]) / 0.5 for a in range(A)])


def _infer(states, score, inference):
    """(mu, sigma) at every position of one history."""
    filtered = []
    for state in states:
        x, c = _aspects(state, score)
        filtered.append([[c[a] * value for value in x[a]] for a in range(A)])
    v, means, spreads = inference.query_w.tolist(), [], []
    for n in range(len(states)):
        mean, spread = [], []
        for a in range(A):
            seen = [filtered[j][a] for j in range(n + 1)]
            weight = _softmax(
                [_dot(v, [math.tanh(y) for y in _linear(x, inference.key)]) for x in seen]
            )
            pooled = [sum(p * x[i] for p, x in zip(weight, seen, strict=True)) for i in range(W)]
            h = [math.tanh(y) for y in _norm(_linear(pooled, inference.hidden), inference.norm)]
            mean.append(_linear(h, inference.mean))
            spread.append([1 / (1 + math.exp(-y)) for y in _linear(h, inference.spread)])
        means.append(mean)
        spreads.append(spread)
    return means, spreads


def _both():
    score, inference = _parts()
    states = torch.randn(5, D, dtype=torch.float64)
    histories = [states[:4].tolist(), states[4:].tolist()]
    means, spreads = zip(*(_infer(h, score, inference) for h in histories), strict=True)
    return score, inference, states, [*means[0], *means[1]], [*spreads[0], *spreads[1]]


def test_what_is_inferred_is_the_equations():
    score, inference, states, means, spreads = _both()
    latent = inference(states, OFFSETS, score, None)
    torch.testing.assert_close(latent.mean, torch.tensor(means, dtype=torch.float64))
    torch.testing.assert_close(latent.log_spread.exp(), torch.tensor(spreads, dtype=torch.float64))
    assert latent.value is latent.mean  # nothing is drawn at retrieval


def test_divergence_is_that_of_two_gaussians():
    """Each by torch's own divergence of distributions."""
    score, inference, states, means, spreads = _both()
    found = inference(states, OFFSETS, score, None).divergence().detach()
    for n in range(5):
        each = [
            torch.distributions.kl_divergence(
                torch.distributions.Normal(mu, sigma), torch.distributions.Normal(0.0, 1.0)
            )
            for a in range(A)
            for mu, sigma in zip(means[n][a], spreads[n][a], strict=True)
        ]
        assert float(found[n]) == pytest.approx(float(sum(each)) / A, rel=1e-5)


def test_noise_has_the_spread_that_was_inferred_and_follows_from_the_keys():
    score, inference = _parts()
    states = torch.randn(1, D, dtype=torch.float64).expand(3000, D)
    one = torch.arange(3001)
    latent = inference(states, one, score, DropoutKeys(list(range(3000)), [1] * 3000))
    noise = (latent.value - latent.mean) / latent.log_spread.exp()
    assert noise.mean(0).abs().max() < 0.1
    assert (noise.std(0) - 1).abs().max() < 0.1
    some = inference(states[:2], one[:3], score, DropoutKeys([7, 2999], [1, 1]))
    torch.testing.assert_close(some.value, latent.value[[7, 2999]])


def test_a_history_is_inferred_the_same_alone_and_in_a_batch_and_causally():
    score, inference = _parts(dropout=0.5)
    states = torch.randn(5, D, dtype=torch.float64)
    together = inference(states, OFFSETS, score, KEYS)
    alone = inference(states[:4], torch.tensor([0, 4]), score, DropoutKeys([11], [4]))
    torch.testing.assert_close(alone.value, together.value[:4])
    changed = states.clone()
    changed[2] += 1
    moved = (inference(changed, OFFSETS, score, KEYS).value != together.value).flatten(1).any(1)
    assert moved.tolist() == [False, False, True, True, False]


def test_no_history_gives_every_parameter_a_gradient():
    score, inference = _parts()
    latent = inference(
        torch.empty(0, D, dtype=torch.float64), torch.tensor([0]), score, DropoutKeys([], [])
    )
    (latent.divergence().sum() + latent.value.sum()).backward()
    assert all(
        parameter.grad is not None for parameter in (*inference.parameters(), *score.parameters())
    )


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_the_score_is_the_sum_over_aspects(kind):
    score, _ = _parts(kind)
    z, item = torch.randn(A, W, dtype=torch.float64), torch.randn(D, dtype=torch.float64)
    x, c = _aspects(item.tolist(), score)
    if kind == "dot":
        wanted = sum(c[a] * _dot(z[a].tolist(), x[a]) for a in range(A))
    else:
        wanted = float(score.scale()) * sum(c[a] * _cosine(z[a].tolist(), x[a]) for a in range(A))
    found = score.queries(z.flatten()[None]) @ score.items(item[None]).T
    assert float(found) == pytest.approx(wanted)


def test_contrast_is_the_equation_and_bounded():
    value, target = torch.randn(2, 5, A, W, dtype=torch.float64)
    for m, found in enumerate(contrast(value, target).tolist()):
        z, x = value[m].tolist(), target[m].tolist()
        each = []
        for a in range(A):
            likeness = [math.exp(_cosine(z[b], x[a]) / 0.2) for b in range(A)]
            each.append(-math.log(likeness[a] / sum(likeness)))
        assert found == pytest.approx(sum(each) / A)
        assert found > 0


def test_overlap_is_how_far_prototypes_are_from_orthogonal():
    score, _ = _parts()
    t = score.prototype_Aw.tolist()
    wanted = math.sqrt(
        sum((_cosine(t[a], t[b]) - (a == b)) ** 2 for a in range(A) for b in range(A))
    )
    assert float(score.overlap()) == pytest.approx(wanted)
    with torch.no_grad():
        score.prototype_Aw.copy_(3 * torch.eye(W)[:A])
    assert float(score.overlap()) == 0


OPTIONS = {
    "aspects": A,
    "width": W,
    "dropout": 0.0,
    "kl": 0.5,
    "kl_steps": 10,
    "contrast": 0.3,
    "orthogonality": 0.2,
}


@pytest.mark.parametrize("step", [0, 4, 25])
def test_the_loss_is_the_sum_of_its_terms(step):
    """Of five positions of two histories, one without a target, among the eight of the whole batch that have one."""
    torch.manual_seed(1)
    baseline = load_baseline(BaselineConfig("dualvae", options=OPTIONS), D, 10).double()
    score = baseline.new_score("dot").double()
    states = Jagged(torch.randn(5, D, dtype=torch.float64), OFFSETS, dropout=KEYS)
    items, negatives = (
        torch.randn(6, D, dtype=torch.float64),
        torch.randn(7, D, dtype=torch.float64),
    )
    negatives[3] = items[2]  # the same row
    tokens, queries, sources, ids = (
        [0, 1, 2, 4],
        [0, 0, 1, 2, 3],
        [1, 2, 2, 3, 5],
        [10, 3, 3, 12, 13],
    )
    weights = [0.1, 0.2, 0.3, 0.1, 0.05]
    learning = Learning(
        token_Q=torch.tensor(tokens),
        vector_Xd=items,
        positives=WeighedPositives(
            item_Xd=score.items(items),
            source_M=torch.tensor(sources),
            id_M=torch.tensor(ids),
            query_M=torch.tensor(queries),
            weight_M=torch.tensor(weights, dtype=torch.float64),
        ),
        offset_M=torch.tensor([1, 2, 1, 1, 1]),
        negatives=NegativeSets(score.items(negatives), torch.arange(7), [7]),
        score=score,
        positions=torch.tensor(8),
        step=step,
    )
    learnt = baseline.learn(states, learning)

    latent = baseline.infer(states)
    wanted, divergence = 0.0, latent.divergence().tolist()
    for query, source, row, weight in zip(queries, sources, ids, weights, strict=True):
        z = latent.value[tokens[query]].tolist()

        def points(item, z=z):
            x, c = _aspects(item, score)
            return sum(c[a] * _dot(z[a], x[a]) for a in range(A))

        own = points(items[source].tolist())
        others = [points(item) for number, item in enumerate(negatives.tolist()) if number != row]
        nll = math.log(sum(math.exp(other - own) for other in [own, *others]))
        apart = contrast(latent.value[tokens[query]][None], score.aspects(items[source][None]))
        wanted += weight * (nll + 0.3 * float(apart.detach()))
    for token in tokens:
        wanted += (
            0.5 * min(1, step / 10) * divergence[token] + 0.2 * float(score.overlap().detach())
        ) / 8
    assert float(learnt.loss.detach()) == pytest.approx(wanted)
    learnt.loss.backward()
    assert all(
        parameter.grad is not None for parameter in (*baseline.parameters(), *score.parameters())
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"aspects": 0}, "aspects = 0 must be at least 1"),
        ({"aspects": 9, "width": 8}, "must be at most the width"),
        ({"kl": -1.0}, "kl = -1.0 must not be negative"),
        ({"dropout": 1.0}, r"must be in \[0, 1\)"),
        ({"depth": 2}, "dualvae has no 'depth'"),
    ],
)
def test_settings_out_of_range_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        load_baseline(BaselineConfig("dualvae", options=options), D, 10)
