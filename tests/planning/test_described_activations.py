"""Bytes of a step with 4,096 negatives that content describes: what is counted against what its tensors have."""

import numpy as np
import pytest
import torch
from language_models import SIZES, write_language_model
from small_movielens import write_movielens
from step_bytes import step_bytes

from torchrec_priors.config import parse
from torchrec_priors.data.batch import make_batch
from torchrec_priors.data.windows import Windows
from torchrec_priors.ops import in_group_softmax
from torchrec_priors.ops.hstu_attention_native import has_native
from torchrec_priors.planning.machines import MACHINES
from torchrec_priors.planning.queries import Queries
from torchrec_priors.planning.read_request import from_config
from torchrec_priors.preparation.content.add import add_vectors
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.sampling.group_sampler import Draw
from torchrec_priors.training.build import build_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not has_native(torch.zeros(1)),
        reason="attention by PyTorch's own operations has scratch that is not counted",
    ),
]

WITHIN = 0.1  # of what is measured
NEGATIVES, WINDOWS, CONTEXT, HORIZON = 4096, 8, 24, 4
ITEMS = NEGATIVES + WINDOWS * (CONTEXT + HORIZON)
VECTORS = 384  # numbers of a vector, as small sentence models have


@pytest.fixture(autouse=True)
def _no_hidden_memory(monkeypatch):
    """The scratch of the C++ softmax, a block of logits for each thread, is not a tensor that can be seen."""
    monkeypatch.setattr(in_group_softmax, "has_native_softmax", lambda *_: False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Films with vectors, and with the tokens of their titles."""
    folder = tmp_path_factory.mktemp("films")
    raw = write_movielens(folder / "raw", items=ITEMS)
    prepare(Settings("movielens", raw, HORIZON), folder / "data")
    prepared = PreparedData(folder / "data")
    ids = prepared.catalogue(["item_id"])["item_id"].to_pylist()
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(len(ids), VECTORS)))
    (folder / "ids.txt").write_text("\n".join(map(str, ids)))
    add_vectors(prepared, "vectors", folder / "vectors.npy", folder / "ids.txt")
    return folder / "data"


@pytest.fixture(scope="module")
def texts(data, tmp_path_factory):
    pytest.importorskip("transformers")
    from torchrec_priors.content.tokenize import tokenize_items

    model = write_language_model(tmp_path_factory.mktemp("model"))
    tokenize_items(PreparedData(data), "tokens", model, ["title"], prompt="", tokens=12)
    return data


def peaks(data, **sections):
    """(bytes that a step has beside its lookups at the fullest moment, bytes that are counted for it)."""
    settings = {
        "model": {"dim": 64, "context": CONTEXT, "horizon": HORIZON, "score": "cosine"},
        "encoder": {"layers": 1},
        "priors": {"tree": []},
        "negatives": {"per_set": NEGATIVES},
        "training": {"batch": WINDOWS},
    }
    config = parse(settings | sections)

    prepared = PreparedData(data)
    items = np.random.default_rng(0).permutation(prepared.items)
    extended = CONTEXT + HORIZON
    windows = Windows(
        step=0,
        items=items[NEGATIVES:ITEMS],
        lengths=np.full(WINDOWS, extended),
        contexts=np.full(WINDOWS, CONTEXT),
        numbers=np.arange(WINDOWS),
        users=np.arange(WINDOWS),
    )

    with join() as ranks:
        built = build_model(config, prepared, ranks)
        to_ids = built.model.item_rows.to_ids
        negatives = to_ids(items[:NEGATIVES])
        draw = Draw(negatives, None, [np.arange(NEGATIVES)], [NEGATIVES], 0)
        batch = make_batch(windows, draw, feature="item", seed=0, to_ids=to_ids)
        if not config.items.encoder or config.items.tuning == "frozen":
            built.describe_items()
        measured, started = step_bytes(built, batch)
        request = from_config(config, prepared, None, ranks=1, machine=MACHINES["cpu"])
        found = vars(Queries.of(started.positives[0], built.model.tree, None))
    return measured, request.with_activations(**found).activation_bytes


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"content": "vectors"},
        {"content": "vectors", "id_dropout": 0.3},
        {"content": "vectors", "unseen": "content", "ids": False},
    ],
    ids=str,
)
def test_a_step_with_content(data, settings):
    measured, counted = peaks(data, embedding=settings)
    assert counted == pytest.approx(measured, rel=WITHIN)


@pytest.mark.parametrize("inner", [96, 352])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "settings",
    [
        {"tuning": "frozen"},
        {"tuning": "lora", "lora_rank": 8},
        {"tuning": "lora", "lora_rank": 8, "recompute": True},
        {"tuning": "whole"},
        {"tuning": "whole", "recompute": True},
    ],
    ids=str,
)
def test_a_step_with_an_item_llm(texts, settings, precision, inner):
    if settings["tuning"] == "lora":
        pytest.importorskip("peft")
    sizes = SIZES | {"hidden_size": 64, "intermediate_size": inner}
    llm = {"config": {"model_type": "llama", **sizes}}
    items = {"encoder": "llm", "content": "tokens", "llm": llm, **settings}
    embedding = {"unseen": "content", "ids": False}
    training = {"batch": WINDOWS, "precision": precision}
    measured, counted = peaks(texts, items=items, embedding=embedding, training=training)
    assert counted == pytest.approx(measured, rel=WITHIN)
