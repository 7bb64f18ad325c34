"""Weights of a language model from a folder that transformers has written."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from torchrec_priors.encoder.encoder import Jagged, load_encoder
from torchrec_priors.errors import UserError
from torchrec_priors.settings.encoder import EncoderConfig
from torchrec_priors.settings.llm import LLMConfig

transformers = pytest.importorskip("transformers")

H = 16
SIZES = {
    "vocab_size": 50,
    "hidden_size": H,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a model in bfloat16 that predicts words, in several files, and the model."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(**SIZES)
    model = transformers.LlamaForCausalLM(config).bfloat16()
    folder = tmp_path_factory.mktemp("llm") / "model"
    model.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder, model


def _encoder(folder, **config):
    llm = LLMConfig(folder=str(folder), config=config).resolved()
    return load_encoder(EncoderConfig(backbone="llm", dropout=0.0, llm=llm), H, 8, 0)


def _copy(written, tmp_path, change):
    """A folder with one file, whose weights `change` has changed."""
    folder, _ = written
    weights = {}
    for file in folder.glob("*.safetensors"):
        weights |= load_file(file)
    change(weights)
    tmp_path.joinpath("config.json").write_text(folder.joinpath("config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def test_states_are_those_of_the_model_in_the_folder(written, caplog):
    folder, model = written
    encoder = _encoder(folder)
    with caplog.at_level(logging.INFO):
        encoder.take_weights(folder)
    assert "no words: lm_head.weight, model.embed_tokens.weight" in caplog.text
    assert "WARNING" not in {record.levelname for record in caplog.records}

    x = torch.randn(5, H)
    states = encoder(Jagged(x, torch.tensor([0, 5])))
    wanted = model.float().model(inputs_embeds=x[None]).last_hidden_state[0]
    torch.testing.assert_close(states, wanted, atol=1e-5, rtol=1e-5)


def test_missing_weights_are_named(written, tmp_path):
    lost = "model.layers.1.mlp.up_proj.weight"
    folder = _copy(written, tmp_path, lambda weights: weights.pop(lost))
    with pytest.raises(UserError, match=r"lacks 1 weight \(layers.1.mlp.up_proj.weight\) of the"):
        _encoder(folder).take_weights(folder)


def test_unexpected_weights_are_named(written, tmp_path, caplog):
    folder = _copy(written, tmp_path, lambda weights: weights.update(adapter=torch.zeros(1)))
    _encoder(folder).take_weights(folder)
    assert "the folder has 1 weight (adapter) that the model" in caplog.text

    caplog.clear()  # a model that is cut off after its first layer
    _encoder(folder, num_hidden_layers=1).take_weights(folder)
    assert "the folder has 10 weights (adapter, model.layers.1." in caplog.text


def test_weights_of_another_shape_are_named(written):
    folder, _ = written
    with pytest.raises(UserError, match=r"down_proj.weight has the shape \[16, 24\], not \[16, 20"):
        _encoder(folder, intermediate_size=20).take_weights(folder)


def test_pickled_weights_are_never_read(written, tmp_path):
    folder, model = written
    tmp_path.joinpath("config.json").write_text(folder.joinpath("config.json").read_text())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no safetensors \(pickled weights are not read\)"):
        _encoder(tmp_path).take_weights(tmp_path)


def test_damaged_weights_are_refused(written, tmp_path):
    folder = _copy(written, tmp_path, lambda weights: None)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"'.*model.safetensors' cannot be read"):
        _encoder(folder).take_weights(folder)
