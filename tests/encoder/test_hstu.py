"""The encoder: causal, independent of its neighbours in the batch, honest about lengths."""

import pytest
import torch

from torchrec_priors.encoder.hstu import HSTU, EncoderConfig
from torchrec_priors.errors import UserError
from torchrec_priors.ops.keyed_dropout import DropoutKeys


def _encoder(**options):
    torch.manual_seed(0)
    encoder = HSTU(EncoderConfig(**options), dim=8, context=6)
    for layer in encoder.layers:
        torch.nn.init.normal_(layer.bias_HL)
        torch.nn.init.normal_(layer.project_in.weight, std=0.5)
    return encoder


def test_a_history_is_encoded_the_same_alone_and_in_a_batch():
    encoder, x = _encoder(), torch.randn(9, 8)
    keys = DropoutKeys([1, 2, 3], [2, 4, 3])
    together = encoder(x, torch.tensor([0, 2, 6, 9]), keys)
    alone = encoder(x[2:6], torch.tensor([0, 4]), DropoutKeys([2], [4]))
    torch.testing.assert_close(together[2:6], alone)


def test_the_state_of_a_position_depends_on_what_came_before_alone():
    encoder, x = _encoder(), torch.randn(6, 8)
    offsets = torch.tensor([0, 6])
    changed = x.clone()
    changed[3] = torch.randn(8)
    same = (encoder(x, offsets) == encoder(changed, offsets)).all(1)
    assert same.tolist() == [True, True, True, False, False, False]


def test_the_order_of_items_matters():
    encoder, x = _encoder(), torch.randn(4, 8)
    offsets = torch.tensor([0, 4])
    swapped = x[[1, 0, 2, 3]]
    assert not torch.allclose(encoder(x, offsets)[3], encoder(swapped, offsets)[3])


def test_an_empty_batch_gives_every_parameter_a_gradient():
    encoder = _encoder()
    encoder(torch.empty(0, 8, requires_grad=True), torch.tensor([0]), DropoutKeys([], [])).sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in encoder.parameters())


def test_a_history_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match="history of 7 exceeds the context of 6"):
        _encoder()(torch.randn(7, 8), torch.tensor([0, 7]))


@pytest.mark.parametrize("options", [{"heads": 3}, {"layers": 0}, {"dropout": 1.0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(UserError):
        _encoder(**options)
