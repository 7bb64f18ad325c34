"""The item LLM: the states of transformers at [ITEM], packed texts apart, what is trained, weights of a folder."""

import pytest
import torch
import torch.nn.functional as F
from language_models import SIZES, write_language_model
from safetensors.torch import load_file

from torchrec_priors.encoder.item_llm import ItemLLM
from torchrec_priors.errors import UserError
from torchrec_priors.settings.items import ItemsConfig
from torchrec_priors.settings.llm import LLMConfig

transformers = pytest.importorskip("transformers")

TOKENS = torch.tensor([3, 4, 5, 6, 9, 8, 7, 3, 4, 5], dtype=torch.int32)
FIRST = torch.tensor([0, 4, 5, 8, 10])  # texts of 4, 1, 3 and 2 tokens


def item_llm(tokens=TOKENS, model_type="llama", seed=0, **settings):
    torch.manual_seed(seed)
    llm = LLMConfig(config={"model_type": model_type, **SIZES})
    config = ItemsConfig(encoder="llm", content="tokens", llm=llm, **settings)
    model = ItemLLM(config, tokens, FIRST, longest=10)
    for parameter in model.parameters():  # nothing at a value that would hide it
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_vectors_are_the_states_of_transformers_at_the_end_of_each_text(model_type):
    model = item_llm(model_type=model_type)
    config = transformers.AutoConfig.for_model(model_type, **SIZES)
    config.pad_token_id = None
    plain = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    plain.load_state_dict(model.model.state_dict())
    found = model(torch.tensor([2, 0, 1]))
    for vector, text in zip(found, (2, 0, 1), strict=True):
        words = plain.get_input_embeddings()(TOKENS[FIRST[text] : FIRST[text + 1]])
        inputs = torch.cat([words, model.item_h[None]])[None]
        state = plain(inputs_embeds=inputs, use_cache=False).last_hidden_state[0, -1]
        torch.testing.assert_close(vector, F.normalize(state, dim=0), atol=1e-5, rtol=1e-5)


def test_changing_a_text_changes_no_bit_of_another():
    model = item_llm()
    changed = TOKENS.clone()
    changed[4:8] = 40  # the texts 1 and 2
    everything = torch.arange(4)
    with torch.no_grad():
        before = model(everything)
        after = item_llm(changed)(everything)
    assert (before == after).all(1).tolist() == [True, False, False, True]
    # A text has the same vector among others and alone.
    with torch.no_grad():
        alone = torch.cat([model(torch.tensor([text])) for text in range(4)])
    torch.testing.assert_close(alone, before, atol=1e-6, rtol=1e-5)


def test_every_parameter_has_a_gradient_even_without_items():
    model = item_llm()
    model(torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert all(not parameter.grad.any() for parameter in model.parameters())
    (model(torch.tensor([0, 3])) * torch.linspace(-1, 1, 16)).sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_recomputed_layers_have_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        model = item_llm(recompute=recompute).train()
        (model(torch.arange(4)) * torch.linspace(-1, 1, 16)).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_nothing_of_a_frozen_model_is_trained():
    frozen = item_llm(tuning="frozen")
    assert not frozen.is_trained
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_lora_starts_at_the_weights_of_a_folder_and_trains_only_additions(tmp_path):
    pytest.importorskip("peft")
    folder = write_language_model(tmp_path / "model", "qwen2", seed=3)
    torch.manual_seed(0)
    llm = LLMConfig(folder=str(folder)).resolved()
    vectors = []
    for tuning in ("whole", "lora"):
        settings = ItemsConfig("llm", "tokens", tuning, lora_rank=2, llm=llm)
        model = ItemLLM(settings, TOKENS, FIRST, longest=10)
        model.take_weights(folder)
        torch.nn.init.constant_(model.item_h, 0.1)
        vectors.append(model(torch.arange(4)).detach())
    torch.testing.assert_close(*vectors)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert "item_h" in trained
    assert all("lora_" in name for name in trained - {"item_h"})
    assert len(trained) == 1 + 2 * 2 * 7, "two matrices for each linear layer"
    (model(torch.arange(4)) * torch.linspace(-1, 1, 16)).sum().backward()
    assert model.item_h.grad.any()


@pytest.mark.parametrize("tuning", ["whole", "lora"])
def test_a_saved_model_is_loaded_by_transformers(tmp_path, tuning):
    pytest.importorskip("peft")
    model = item_llm(tuning=tuning, lora_rank=2)
    files = model.save(tmp_path / "saved")
    assert sorted(file.name for file in files) == [
        "config.json",
        "item.safetensors",
        "model.safetensors",
    ]
    plain = transformers.AutoModel.from_pretrained(tmp_path / "saved", attn_implementation="eager")
    words = plain.get_input_embeddings()(TOKENS[:4])
    inputs = torch.cat([words, load_file(tmp_path / "saved" / "item.safetensors")["item"][None]])
    state = plain(inputs_embeds=inputs[None], use_cache=False).last_hidden_state[0, -1]
    found = model(torch.tensor([0]))[0]
    torch.testing.assert_close(found, F.normalize(state, dim=0), atol=1e-5, rtol=1e-5)


def test_weights_are_those_of_a_folder_that_transformers_has_written(tmp_path, caplog):
    folder = write_language_model(tmp_path / "model", seed=3)
    model = item_llm()
    with caplog.at_level("INFO"):
        model.take_weights(folder)
    saved = transformers.AutoModel.from_pretrained(folder)
    for name, value in saved.state_dict().items():
        assert torch.equal(model.model.state_dict()[name], value), name
    assert "items.llm: not used, as no words are predicted: lm_head.weight" in caplog.text


def test_messages_name_the_section_of_items():
    with pytest.raises(UserError, match=r"items.llm: the model has 97 words, but .* the token 97"):
        item_llm(torch.full_like(TOKENS, 97))
    with pytest.raises(UserError, match=r"items.llm.config: llama has no 'hiden_size'"):
        ItemLLM(
            ItemsConfig("llm", "x", llm=LLMConfig(config={"model_type": "llama", "hiden_size": 3})),
            TOKENS,
            FIRST,
            longest=10,
        )
    with pytest.raises(UserError, match=r"the longest text with \[ITEM\] = 101 is more than"):
        ItemLLM(
            ItemsConfig("llm", "x", llm=LLMConfig(config={"model_type": "llama", **SIZES})),
            TOKENS,
            FIRST,
            longest=100,
        )
    with pytest.raises(UserError, match=r"needs items.content"):
        ItemsConfig("llm", llm=LLMConfig(config={"model_type": "llama"})).check()
    with pytest.raises(UserError, match=r'items.encoder = "llm" needs items.llm.folder'):
        ItemsConfig("llm", "x").check()
    with pytest.raises(UserError, match=r'the section items is for items.encoder = "llm"'):
        ItemsConfig(content="x").check()
