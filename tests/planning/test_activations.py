"""Bytes that are counted for a step against those that its tensors really have, and how they follow from sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from questions import request_of
from step_bytes import step_bytes

from torchrec_priors.config import parse
from torchrec_priors.data.batch import make_batch
from torchrec_priors.data.windows import Windows
from torchrec_priors.errors import UserError
from torchrec_priors.heads.repeat_head import find_repeats
from torchrec_priors.ops import in_group_softmax
from torchrec_priors.ops.hstu_attention_native import has_native
from torchrec_priors.planning.activations import Activations
from torchrec_priors.planning.machines import MACHINES
from torchrec_priors.planning.queries import Queries, queries_in
from torchrec_priors.planning.read_request import from_config
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_tree
from torchrec_priors.ranks.process import join
from torchrec_priors.sampling.group_sampler import Draw
from torchrec_priors.training.build import build_model


@pytest.fixture(autouse=True)
def _no_hidden_memory(monkeypatch):
    """The scratch of the C++ softmax, a block of logits for each thread, is not a tensor that can be seen."""
    monkeypatch.setattr(in_group_softmax, "has_native_softmax", lambda *_: False)


WITHIN = 0.1  # of what is measured
WINDOWS, HORIZON, NEGATIVES = 8, 8, 48
TREE = ["temporal:2", "genre"]

native = pytest.mark.skipif(
    not has_native(torch.zeros(1)),
    reason="attention by PyTorch's own operations has scratch that is not counted",
)


def _config(
    tree=(),
    layers=2,
    context=100,
    dim=64,
    score="dot",
    gate=0.0,
    repeats=None,
    precision="fp32",
    accumulate=1,
    softmax="in_group",
    **encoder,
):
    return parse(
        {
            "model": {"dim": dim, "context": context, "horizon": HORIZON, "score": score},
            "encoder": {"layers": layers, **encoder},
            "priors": {"tree": list(tree)},
            "negatives": {"per_set": NEGATIVES, "seen": not repeats, "logq": softmax == "joint"},
            "training": {"batch": WINDOWS, "precision": precision, "accumulate": accumulate},
            "loss": {"gate": gate, "softmax": softmax},
            **({"repeats": repeats, "evaluation": {"filter_seen": False}} if repeats else {}),
        }
    )


def _full_windows(context, data):
    """Random ones, all as long as they can be."""
    extended = context + HORIZON
    return Windows(
        step=0,
        items=np.random.default_rng(0).integers(0, data.items, WINDOWS * extended),
        lengths=np.full(WINDOWS, extended),
        contexts=np.full(WINDOWS, context),
        numbers=np.arange(WINDOWS),
        users=np.arange(WINDOWS),
    )


def _repeats(model, looked_up, part):
    if model.repeat_head is None:
        return None
    return find_repeats(looked_up.item_X, part.context_N, part.end_N, part.offsets_B1, HORIZON)


def _peaks(config, data):
    """(bytes that a step has beside its lookups at the fullest moment, bytes that are counted for it)."""
    with join() as ranks:
        built = build_model(config, data, ranks)
        model, parts = built.model, config.training.accumulate
        own = np.arange(NEGATIVES * model.tree.item_sets) % data.items
        draw = Draw(own, None, [np.arange(len(own))], [NEGATIVES] * model.tree.item_sets, 0)
        batch = make_batch(
            _full_windows(config.model.context, data), draw, feature="item", seed=0, parts=parts
        )
        measured, started = step_bytes(built, batch)
        request = from_config(config, data, None, ranks=1, machine=MACHINES["cpu"])
        of_parts = [
            vars(Queries.of(found, model.tree, _repeats(model, started.looked_up, part)))
            for found, part in zip(started.positives, batch.parts, strict=True)
        ]
    means = {name: np.mean([of_part[name] for of_part in of_parts]) for name in of_parts[0]}
    return measured, request.with_activations(**means).activation_bytes


@native
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("layers", "context"), [(1, 50), (1, 200), (4, 50), (4, 200)])
def test_counted_is_what_a_step_has(small_data, layers, context, recompute):
    measured, counted = _peaks(
        _config(layers=layers, context=context, recompute=recompute), PreparedData(small_data)
    )
    assert counted == pytest.approx(measured, rel=WITHIN)


@pytest.mark.slow
@native
@pytest.mark.parametrize(
    "settings",
    [
        {"tree": TREE},
        {"tree": TREE, "recompute": True, "dim": 128},
        {"tree": TREE, "accumulate": 4},
        {"layers": 1, "accumulate": WINDOWS, "recompute": True},
        {"tree": TREE, "score": "cosine"},
        {"tree": TREE, "gate": 1.0},
        {"precision": "bf16", "layers": 4},
        {"precision": "bf16", "layers": 4, "recompute": True},
        {"dropout": 0.0},
        {"item_features": ["title"]},
        {"time_bias": True},
        {"repeats": {"weight": 1.0}},
    ],
    ids=str,
)
def test_so_it_is_with_other_settings(small_data, settings):
    measured, counted = _peaks(_config(context=200, **settings), PreparedData(small_data))
    assert counted == pytest.approx(measured, rel=WITHIN)


COMMUNITIES = """
import numpy as np
from torchrec_priors.priors.item import ItemPrior

def load(argument, data, horizon):
    rows = np.arange(data.items)
    return ItemPrior("community", ["c1", "c2", "c3"], rows, rows * 7 % 3, data.items)
"""


@pytest.mark.slow
@native
def test_so_it_is_with_one_softmax_for_all_heads(small_data, tmp_path):
    prior = tmp_path / "communities.py"
    prior.write_text(COMMUNITIES)
    config = _config([str(prior)], softmax="joint", gate=1.0, context=200)
    measured, counted = _peaks(config, PreparedData(small_data))
    assert counted == pytest.approx(measured, rel=WITHIN)


KEPT = Activations(layers=8, context=200, queries=4.0, positives=8.0)


def _bytes(windows=64, negatives=0, ranks=1, device="cuda", dim=256, **changes):
    return replace(KEPT, **changes).bytes(windows, dim, negatives, ranks=ranks, device=device)


def test_a_layer_more_is_what_it_keeps():
    numbers = 64 * 200 * 256
    for settings, of_number in (({}, 56), ({"dropout": False}, 52), ({"recompute": True}, 4)):
        more = _bytes(layers=9, **settings) - _bytes(**settings)
        assert more == of_number * numbers + 16 * 64 * 200
    narrow = {"precision": "bf16"}
    casts = 10 * 256**2
    assert _bytes(layers=9, **narrow) - _bytes(**narrow) == 36 * numbers + 16 * 64 * 200 + casts
    on_cpu = {**narrow, "device": "cpu"}
    assert _bytes(layers=9, **on_cpu) - _bytes(**on_cpu) == 30 * numbers + 16 * 64 * 200 + casts


def test_it_grows_with_windows_and_context_and_falls_with_parts():
    block = 4 * (1 << 24)
    twice = 2 * (_bytes() - block) + block
    assert _bytes(windows=128) == pytest.approx(twice, rel=0.01)
    assert _bytes(context=400) == pytest.approx(
        twice, rel=0.01
    )  # a window's last items are not tokens
    in_parts = [_bytes(accumulate=parts) for parts in (2, 4, 8, 16)]
    assert in_parts == sorted(in_parts, reverse=True)
    assert in_parts[0] < _bytes()
    assert _bytes(accumulate=64) == _bytes(accumulate=1000)  # a window is a part, or none


def test_a_repeat_head_keeps_a_score_for_each_pair_of_positions():
    repeats = {"repeats": True, "horizon": 0, "positives": 0.0}
    without = _bytes(**{**repeats, "repeats": False})
    padded = 224  # of 200 positions
    scores = 4 * 64 * padded**2
    vectors = 2 * 4 * 256 * 64 * padded
    assert _bytes(**repeats) - without == scores + vectors
    assert _bytes(**repeats, repeats_in_time=True) - _bytes(**repeats) == 2 * scores
    more = _bytes(**repeats, occurrences=3.0) - _bytes(**repeats)
    assert more == 3 * 64 * 200 * (2 * 4 * 256 + 200)


def test_negatives_are_on_every_rank_with_their_gradients():
    few = {"sets": 8192}  # one a query, so that blocks of logits have as many queries
    alone, two = (_bytes(negatives=8192, ranks=ranks, **few) for ranks in (1, 2))
    assert two - alone == 8192 * 256 * 4
    assert alone - _bytes(**few) == 8192 * 256 * 4


def test_queries_of_a_data_set_are_counted(small_data):
    data, config = PreparedData(small_data), _config(TREE, context=20)
    tree = load_tree(config.priors, data, HORIZON)
    found = queries_in(config, data, tree)
    genres = 19  # at most, under each of two
    assert 1 < found.above <= 2
    assert found.above < found.queries <= min(2 * genres, found.positives)
    flat = parse({"model": {"context": 20, "horizon": HORIZON}})
    alone = queries_in(flat, data, load_tree(flat.priors, data, HORIZON))
    assert (alone.queries, alone.above) == (1.0, 0.0)
    assert 1 < alone.positives <= HORIZON < found.positives


def test_numbers_of_activations_go_with_layers():
    assert request_of(1_000, 1).activations is None
    with pytest.raises(UserError, match="--recompute is about activations: give --layers"):
        request_of(1_000, 1, numbers={"recompute": True})
    with pytest.raises(UserError, match="--precision: there is no 'fp8'"):
        request_of(1_000, 1, numbers={"layers": 1, "precision": "fp8"})
    asked = {"layers": 4, "queries": 12, "accumulate": 2, "recompute": True, "precision": "bf16"}
    kept = request_of(1_000, 1, numbers=asked).activations
    assert (kept.layers, kept.queries, kept.positives, kept.accumulate) == (4, 12, 12, 2)
    assert (kept.context, kept.recompute, kept.precision) == (200, True, "bf16")
