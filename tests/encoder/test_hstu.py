"""The encoder: causal, independent of its neighbours in the batch, honest about lengths."""

import pytest
import torch

from torchrec_priors.encoder.encoder import Jagged, load_encoder
from torchrec_priors.encoder.hstu import HSTU
from torchrec_priors.errors import UserError
from torchrec_priors.ops.keyed_dropout import DropoutKeys
from torchrec_priors.settings.encoder import EncoderConfig


def _encoder(**options):
    torch.manual_seed(0)
    encoder = HSTU(EncoderConfig(**options), dim=8, context=6, event_types=3)
    for layer in encoder.layers:
        torch.nn.init.normal_(layer.bias_HL)
        if layer.bias_HC is not None:
            torch.nn.init.normal_(layer.bias_HC)
        torch.nn.init.normal_(layer.project_in.weight, std=0.5)
    return encoder


def test_first_weights_are_small_and_output_biases_zero():
    torch.manual_seed(0)
    encoder = HSTU(EncoderConfig(events=True), dim=64, context=200, event_types=40)
    small = [encoder.position.weight, encoder.event.weight]
    small += [layer.project_in.weight for layer in encoder.layers]
    for weight in small:
        assert float(weight.std()) == pytest.approx(0.02, rel=0.1)
        assert float(weight.mean()) == pytest.approx(0.0, abs=0.002)
    for layer in encoder.layers:
        assert not layer.project_out.bias.any()


def test_a_history_is_encoded_the_same_alone_and_in_a_batch():
    encoder, x = _encoder(), torch.randn(9, 8)
    keys = DropoutKeys([1, 2, 3], [2, 4, 3])
    together = encoder(Jagged(x, torch.tensor([0, 2, 6, 9]), dropout=keys))
    alone = encoder(Jagged(x[2:6], torch.tensor([0, 4]), dropout=DropoutKeys([2], [4])))
    torch.testing.assert_close(together[2:6], alone)


def test_the_state_of_a_position_depends_on_what_came_before_alone():
    encoder, x = _encoder(), torch.randn(6, 8)
    offsets = torch.tensor([0, 6])
    changed = x.clone()
    changed[3] = torch.randn(8)
    same = (encoder(Jagged(x, offsets)) == encoder(Jagged(changed, offsets))).all(1)
    assert same.tolist() == [True, True, True, False, False, False]


def test_the_order_of_items_matters():
    encoder, x = _encoder(), torch.randn(4, 8)
    offsets = torch.tensor([0, 4])
    swapped = x[[1, 0, 2, 3]]
    assert not torch.allclose(encoder(Jagged(x, offsets))[3], encoder(Jagged(swapped, offsets))[3])


def test_an_empty_batch_gives_every_parameter_a_gradient():
    encoder = _encoder()
    empty = Jagged(
        torch.empty(0, 8, requires_grad=True), torch.tensor([0]), dropout=DropoutKeys([], [])
    )
    encoder(empty).sum().backward()
    assert all(
        parameter.grad is not None and not parameter.grad.any()
        for parameter in encoder.parameters()
    )


def test_a_history_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match="history of 7 exceeds the context of 6"):
        _encoder()(Jagged(torch.randn(7, 8), torch.tensor([0, 7])))


@pytest.mark.parametrize("options", [{"heads": 3}, {"layers": 0}, {"dropout": 1.0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(UserError):
        _encoder(**options)


def test_times_and_events_are_seen_where_asked_for_and_known():
    x, offsets = torch.randn(5, 8), torch.tensor([0, 5])
    times, events = torch.tensor([0, 1, 60, 3600, 86400]) * 1000, torch.tensor([0, 2, 1, 0, 0])
    blind, seeing = _encoder(), _encoder(time_bias=True, events=True)
    torch.testing.assert_close(
        blind(Jagged(x, offsets, times, events)), blind(Jagged(x, offsets)), rtol=0, atol=0
    )
    with_both = seeing(Jagged(x, offsets, times, events))
    assert not torch.allclose(with_both, seeing(Jagged(x, offsets, None, events)))
    assert not torch.allclose(with_both, seeing(Jagged(x, offsets, times, None)))
    later = seeing(Jagged(x, offsets, times + 10**12, events))
    torch.testing.assert_close(with_both, later)  # differences of time alone count
    changed = seeing(Jagged(x, offsets, times + torch.tensor([0, 0, 0, 0, 10**9]), events))
    torch.testing.assert_close(with_both[:4], changed[:4])
    assert not torch.allclose(with_both[4], changed[4])


def test_layers_computed_again_in_backward_give_the_same_gradients():
    results = []
    for recompute in (False, True):
        encoder = _encoder(recompute=recompute, dropout=0.5, time_bias=True)
        x = torch.linspace(-1, 1, 48).view(6, 8).requires_grad_()
        histories = Jagged(
            x, torch.tensor([0, 4, 6]), torch.arange(6) * 5000, dropout=DropoutKeys([3, 4], [4, 2])
        )
        encoder(histories).square().sum().backward()
        results.append([x.grad, *(p.grad for p in encoder.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1])
    assert all(torch.equal(kept, again) for kept, again in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backbone": "hstv"}, "there is no 'hstv': did you mean 'hstu'"),
        ({"backbone": "mine.py"}, "there is no file 'mine.py'"),
        ({"options": {"width": 3}}, "hstu has no options: remove 'width'"),
    ],
)
def test_an_unknown_backbone_or_option_is_named(options, says):
    with pytest.raises(UserError, match=says):
        load_encoder(EncoderConfig(**options), 8, 6, 0)


def test_a_custom_encoder_with_other_arguments_is_told_those_it_is_called_with(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def load(config):\n    return None\n")
    wanted = r"load\(config\) where load\(config, dim, context, event_types\) is called"
    with pytest.raises(UserError, match=wanted):
        load_encoder(EncoderConfig(backbone=str(file)), 8, 6, 0)
