"""The encoder without layers: each position by itself, normalised."""

import pytest
import torch
import torch.nn.functional as F

from torchrec_priors.encoder.encoder import Jagged, load_encoder
from torchrec_priors.errors import UserError
from torchrec_priors.ops.keyed_dropout import DropoutKeys
from torchrec_priors.settings.encoder import EncoderConfig


def test_states_are_normalised_items_and_positions():
    torch.manual_seed(0)
    encoder, x = load_encoder(EncoderConfig(backbone="shallow"), 8, 6, 0), torch.randn(5, 8)
    place = encoder.position.weight[[0, 1, 2, 0, 1]]
    states = encoder(Jagged(x, torch.tensor([0, 3, 5])))
    torch.testing.assert_close(states, F.layer_norm(x + place, (8,)))
    dropped = encoder(Jagged(x, torch.tensor([0, 3, 5]), dropout=DropoutKeys([1, 2], [3, 2])))
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], states[kept] / (1 - 0.2))
    assert 0 < kept.float().mean() < 1


def test_no_histories_give_every_parameter_a_gradient():
    encoder = load_encoder(EncoderConfig(backbone="shallow"), 8, 6, 0)
    encoder(Jagged(torch.empty(0, 8), torch.tensor([0]))).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize(
    "options", [{"time_bias": True}, {"events": True}, {"recompute": True}, {"options": {"x": 1}}]
)
def test_settings_it_has_no_use_for_are_refused(options):
    with pytest.raises(UserError, match="shallow has n"):
        load_encoder(EncoderConfig(backbone="shallow", **options), 8, 6, 3)
