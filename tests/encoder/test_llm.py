"""A language model over item vectors: the states of transformers, packed windows apart, no words."""

import pytest
import torch

from torchrec_priors.encoder.encoder import Jagged, load_encoder
from torchrec_priors.errors import UserError
from torchrec_priors.ops.keyed_dropout import DropoutKeys
from torchrec_priors.settings.encoder import EncoderConfig
from torchrec_priors.settings.llm import LLMConfig

transformers = pytest.importorskip("transformers")

H, CONTEXT = 16, 9
OFFSETS = torch.tensor([0, 4, 4, 5, 14])  # one history is empty
SIZES = {
    "hidden_size": H,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
}
TWO_HEADS = {"hidden_size": H, "num_hidden_layers": 1, "num_attention_heads": 2}


def _encoder(model_type="llama", dim=H, sizes=SIZES, **options):
    torch.manual_seed(0)
    llm = LLMConfig(config={"model_type": model_type, **sizes})
    config = EncoderConfig(backbone="llm", llm=llm, **{"dropout": 0.0, **options})
    encoder = load_encoder(config, dim, CONTEXT, 3)
    for parameter in encoder.parameters():  # nothing at a value that would hide it
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def _of_transformers(encoder, model_type, sizes=SIZES):
    """The model of transformers with its own attention, and the weights of an encoder."""
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    config.vocab_size = 5
    config.pad_token_id = None
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    missing = model.load_state_dict(encoder.model.state_dict(), strict=False)
    assert missing.missing_keys == [f"{encoder.word_table}.weight"]
    return model


def _padded(model, x):
    """The states of a padded batch with a mask, without the padding."""
    bounds = [(a, b) for a, b in zip(OFFSETS[:-1].tolist(), OFFSETS[1:].tolist(), strict=True)]
    mask = torch.zeros(len(bounds), CONTEXT, dtype=torch.int64)
    rows = [torch.nn.functional.pad(x[a:b], (0, 0, 0, CONTEXT - b + a)) for a, b in bounds]
    padded = torch.stack(rows)
    for row, (a, b) in enumerate(bounds):
        mask[row, : b - a] = 1
    states = model(inputs_embeds=padded, attention_mask=mask, use_cache=False).last_hidden_state
    return torch.cat([states[row, : b - a] for row, (a, b) in enumerate(bounds)])


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_states_and_gradients_are_those_of_the_padded_model(model_type):
    encoder = _encoder(model_type)
    model = _of_transformers(encoder, model_type)
    ours, theirs = (torch.linspace(-2, 2, 14 * H).cos().view(14, H) for _ in range(2))
    weights = torch.linspace(-1, 1, 14 * H).sin().view(14, H)

    states = encoder(Jagged(ours.requires_grad_(), OFFSETS))
    wanted = _padded(model, theirs.requires_grad_())
    torch.testing.assert_close(states, wanted, atol=1e-5, rtol=1e-5)

    (states * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    parameters = dict(model.named_parameters())
    for name, parameter in encoder.model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, parameters[name].grad, atol=1e-5, rtol=1e-4, msg=name
        )


GROUPED = SIZES | {"head_dim": 4}
FULL = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
HEADS_ONLY = {name: size for name, size in FULL.items() if name != "intermediate_size"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        ("qwen3", GROUPED),
        ("mistral", SIZES),
        ("mixtral", SIZES),
        ("gemma", GROUPED),
        ("gpt2", HEADS_ONLY),
        ("gpt_neox", FULL),
        ("opt", HEADS_ONLY | {"ffn_dim": 24, "word_embed_proj_dim": H}),
        ("phi", FULL),
        ("olmo2", FULL),
        ("smollm3", SIZES),
    ],
)
def test_states_of_other_families_are_those_of_the_padded_model(model_type, sizes):
    encoder, x = _encoder(model_type, sizes=sizes), torch.randn(14, H)
    wanted = _padded(_of_transformers(encoder, model_type, sizes), x)
    torch.testing.assert_close(encoder(Jagged(x, OFFSETS)), wanted, atol=1e-5, rtol=1e-5)


def test_a_window_changes_no_bit_of_another_and_no_earlier_state():
    encoder, x = _encoder(), torch.randn(14, H)
    states = encoder(Jagged(x, OFFSETS))

    changed = x.clone()
    changed[4] = 10.0  # the window of one item
    changed[9] = -10.0
    same = (encoder(Jagged(changed, OFFSETS)) == states).all(1)
    assert same.tolist() == [True] * 4 + [False] + [True] * 4 + [False] * 5


def test_a_history_is_encoded_the_same_alone_and_in_a_batch():
    encoder, x = _encoder(dropout=0.4, dim=8), torch.randn(14, 8)
    keys = DropoutKeys([1, 2, 3, 4], [4, 0, 1, 9])
    together = encoder(Jagged(x, OFFSETS, dropout=keys))
    alone = encoder(Jagged(x[5:], torch.tensor([0, 9]), dropout=DropoutKeys([4], [9])))
    torch.testing.assert_close(together[5:], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone, encoder(Jagged(x[5:], torch.tensor([0, 9]))))


def test_vectors_of_another_width_are_projected_there_and_back():
    encoder, x = _encoder(dim=8), torch.randn(14, 8)
    states = _padded(_of_transformers(encoder, "llama"), encoder.project_in(x))
    wanted = encoder.project_out(states)
    torch.testing.assert_close(encoder(Jagged(x, OFFSETS)), wanted, atol=1e-5, rtol=1e-5)


def test_events_are_added_to_items():
    encoder, x = _encoder(events=True), torch.randn(14, H)
    event_N = torch.arange(14) % 3
    states = encoder(Jagged(x, OFFSETS, event_N=event_N))
    wanted = encoder(Jagged(x + encoder.event.weight[event_N], OFFSETS))
    torch.testing.assert_close(states, wanted)
    assert not torch.allclose(states, encoder(Jagged(x, OFFSETS)))


@pytest.mark.parametrize("recompute", [False, True])
def test_an_empty_batch_gives_every_parameter_a_gradient(recompute):
    encoder = _encoder(dim=8, recompute=recompute)
    states = encoder(Jagged(torch.empty(0, 8, requires_grad=True), torch.tensor([0])))
    assert states.shape == (0, 8)
    states.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in encoder.parameters())


def test_layers_computed_again_in_backward_give_the_same_gradients():
    results = []
    for recompute in (False, True):
        encoder = _encoder(recompute=recompute).train()
        calls = []
        layer = encoder.model.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        x = torch.linspace(-1, 1, 14 * H).view(14, H).requires_grad_()
        encoder(Jagged(x, OFFSETS)).square().sum().backward()
        assert len(calls) == 1 + recompute
        results.append([x.grad, *(p.grad for p in encoder.parameters())])
    assert all(torch.equal(kept, again) for kept, again in zip(*results, strict=True))


@pytest.mark.slow
def test_there_are_no_words_and_no_dropout_of_a_generator():
    encoder = _encoder("gpt2", sizes={"n_embd": H, "n_layer": 2, "n_head": 4, "n_positions": 9})
    assert not [name for name, _ in encoder.named_parameters() if "wte" in name]
    encoder.train()
    x = torch.randn(14, H)
    assert torch.equal(encoder(Jagged(x, OFFSETS)), encoder(Jagged(x, OFFSETS)))


def test_initial_values_depend_on_the_seed_alone():
    config = EncoderConfig(backbone="llm", llm=LLMConfig(config={"model_type": "llama", **SIZES}))
    values = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        values.append(load_encoder(config, 8, CONTEXT, 0).state_dict())
    first, again, other = values
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["project_in.weight"], other["project_in.weight"])


def test_a_history_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match="history of 10 exceeds the context of 9"):
        _encoder()(Jagged(torch.randn(10, H), torch.tensor([0, 10])))


@pytest.mark.parametrize(
    ("llm", "says"),
    [
        ({"model_type": "lama"}, "'lama' is no decoder .* did you mean 'llama'"),
        ({"model_type": "llama", "hiden_size": 8}, "has no 'hiden_size': did you mean 'hidden_si"),
        ({"model_type": "llama", "num_hidden_layers": 0}, r"num_hidden_layers = 0 .* \[1, 256\]"),
        ({"model_type": "llama", "hidden_size": "wide"}, "rejects this llama"),
        ({"model_type": "llama", "max_position_embeddings": 4}, "model.context = 9 is more than"),
        ({"model_type": "llama", "quantization_config": {"bits": 4}}, "quantised"),
    ],
)
def test_configurations_that_are_none_are_refused(llm, says):
    with pytest.raises(UserError, match=says):
        load_encoder(EncoderConfig(backbone="llm", llm=LLMConfig(config=llm)), H, CONTEXT, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("llm", "says"),
    [
        ({**SIZES, "model_type": "mistral", "sliding_window": 1}, "sliding window of 1 is shorter"),
        ({**SIZES, "model_type": "gemma2"}, "it has 'softcap'"),
        ({**TWO_HEADS, "model_type": "bert"}, "it is not causal"),
        ({**TWO_HEADS, "model_type": "bloom"}, "mixes positions outside of attention"),
    ],
)
def test_models_that_cannot_read_packed_histories_are_refused(llm, says):
    with pytest.raises(UserError, match=says):
        load_encoder(EncoderConfig(backbone="llm", llm=LLMConfig(config=llm)), H, CONTEXT, 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"time_bias": True}, "encoder.time_bias: llm has no bias of time"),
        ({"options": {"width": 3}}, "llm has no options: remove 'width'"),
    ],
)
def test_settings_it_has_no_use_for_are_refused(options, says):
    llm = LLMConfig(config={"model_type": "llama", **SIZES})
    with pytest.raises(UserError, match=says):
        load_encoder(EncoderConfig(backbone="llm", llm=llm, **options), H, CONTEXT, 3)
