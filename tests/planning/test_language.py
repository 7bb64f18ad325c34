"""Language models in plans: what a layer keeps is what autograd keeps; parameters and operations by hand."""

import json

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from torchrec_priors.config import parse
from torchrec_priors.encoder.language_model import make_language_model
from torchrec_priors.encoder.packed_windows import read_windows
from torchrec_priors.planning.machines import MACHINES
from torchrec_priors.planning.planner import plan
from torchrec_priors.planning.read_request import from_config
from torchrec_priors.planning.show import plan_as_json, show_plan
from torchrec_priors.settings.llm import LLMConfig

pytest.importorskip("transformers")

SIZES = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 50,
}
TOKENS, WINDOW = 64, 16


def settings(**items):
    return {
        "model": {"dim": 64, "context": WINDOW, "horizon": 4, "score": "cosine"},
        "encoder": {"backbone": "llm", "llm": {"config": SIZES}},
        "items": {"encoder": "llm", "content": "text", "llm": {"config": SIZES}, **items},
        "embedding": {"unseen": "content", "ids": False},
        "negatives": {"per_set": 128},
        "training": {"batch": 32, "precision": "bf16"},
    }


def request(ranks=4, **items):
    return from_config(
        parse(settings(**items)), None, 1000, ranks=ranks, machine=MACHINES["h200"], text_tokens=9
    )


def kept_by_autograd(layers: int, precision: str) -> int:
    """The bytes of all storages that backward needs, except parameters."""
    config = LLMConfig(config=SIZES | {"num_hidden_layers": layers})
    model, _ = make_language_model(config, WINDOW)
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, so that none is reused
        return tensor

    with (
        saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        state = read_windows(
            model,
            torch.randn(TOKENS, 64, requires_grad=True),
            torch.arange(0, TOKENS + 1, WINDOW),
            WINDOW,
        )
    assert state.requires_grad
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_layer_keeps_what_autograd_keeps(precision):
    values = settings()
    values["training"]["precision"] = precision
    _, users = from_config(parse(values), None, 1000, ranks=4, machine=MACHINES["h200"]).language
    measured = kept_by_autograd(2, precision) - kept_by_autograd(1, precision)
    assert users.layer_bytes(TOKENS) == pytest.approx(measured, rel=0.03)


def test_parameters_and_operations_are_those_of_the_models():
    items, users = request().language
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64
    assert users.parameters == 2 * layer + 64
    assert items.parameters == users.parameters + 50 * 64 + 64, "words and [ITEM]"
    assert items.trained == items.parameters

    # A rank has 8 windows of 20 items and 32 negatives, each with 9 tokens and [ITEM].
    assert items.tokens(8, 4) == (8 * 20 + 32) * 10
    assert users.tokens(8, 4) == 8 * WINDOW
    forward = 100 * (2 * users.parameters + 2 * 64 * WINDOW * 2)
    assert users.operations(100) == 3 * forward


def test_lora_trains_its_matrices_and_the_vector_of_an_item():
    pytest.importorskip("peft")
    (lora, _) = request(tuning="lora", lora_rank=2, recompute=True).language
    assert lora.trained == 64 + 2 * 2 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 96))
    assert lora.operations(100) == pytest.approx(3 * 100 * (2 * lora.of_layers + 2 * 64 * 10 * 2))


def test_a_frozen_model_takes_no_part_in_a_step():
    asked = request(tuning="frozen")
    items, users = asked.language
    assert (items.tokens(8, 4), items.trained, items.kept_bytes(0)) == (0, 0, 0)
    assert items.parameter_bytes == 4 * items.parameters
    assert asked.content == 64
    projection = 64 * 64 + 64
    assert asked.dense - request().dense == projection
    assert asked.rows_of(asked.tables[0]) == 1, "without rows"
    whole = request()
    assert whole.dense_bytes == 16 * (whole.dense + items.parameters + users.parameters) + (
        1000 * 64 * 4
    )


def test_recomputed_layers_keep_their_input():
    items, _ = request(recompute=True).language
    assert items.kept_bytes(100) == 100 * 64 * 4 * 2
    assert items.kept_bytes(100, recompute=False) == 2 * items.layer_bytes(100)


def test_time_is_that_of_operations_at_a_share_of_the_peak():
    asked = request()
    planned = plan(asked)
    items, users = asked.language
    seconds = asked.language_seconds(users)
    assert seconds == pytest.approx(users.operations(8 * WINDOW) / (989e12 * 0.4))
    text = show_plan(planned)
    assert "items: llama" in text
    assert "time of a step at 40% of the peak" in text
    found = json.loads(plan_as_json(planned))["language"]
    assert [part["name"] for part in found] == ["items", "users"]
    assert found[0]["seconds"] == pytest.approx(asked.language_seconds(items))
