"""SASRec: its paper's equations in plain loops, causal, independent of its neighbours in the batch."""

import math

import pytest
import torch

from torchrec_priors.encoder.encoder import Jagged, load_encoder
from torchrec_priors.encoder.sasrec import SASRec
from torchrec_priors.errors import UserError
from torchrec_priors.ops.keyed_dropout import DropoutKeys
from torchrec_priors.settings.encoder import EncoderConfig

D, HEADS = 8, 2


def _encoder(**options):
    torch.manual_seed(0)
    encoder = SASRec(EncoderConfig(**{"heads": HEADS, **options}), dim=D, context=6)
    for parameter in encoder.parameters():  # nothing at a value that would hide it
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder


def _norm(x, layer):
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    scale, shift = layer.weight.tolist(), layer.bias.tolist()
    return [
        s * (value - mean) / math.sqrt(variance + 1e-8) + b
        for value, s, b in zip(x, scale, shift, strict=True)
    ]


def _times(x, layer):
    """x W + b."""
    return [
        sum(a * w for a, w in zip(x, row, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def _by_hand(encoder, items):
    """The equations of the module's docstring for one history, item by item."""
    position, width = encoder.position.weight.tolist(), D // HEADS
    x = [
        [math.sqrt(D) * v + p for v, p in zip(item, position[i], strict=True)]
        for i, item in enumerate(items)
    ]
    for block in encoder.blocks:
        q = [_norm(token, block.norm_attention) for token in x]
        query, key, value = ([_times(t, layer) for t in tokens] for tokens, layer in (
            (q, block.query), (x, block.key), (x, block.value)
        ))  # fmt: skip
        y = []
        for i in range(len(x)):
            y.append(list(q[i]))
            for head in range(HEADS):
                part = range(head * width, (head + 1) * width)
                weights = [
                    math.exp(sum(query[i][c] * key[j][c] for c in part) / math.sqrt(width))
                    for j in range(i + 1)
                ]
                for c in part:
                    y[i][c] += sum(w / sum(weights) * value[j][c] for j, w in enumerate(weights))
        h = [_norm(token, block.norm_forward) for token in y]
        inner = [[max(0.0, v) for v in _times(token, block.inner)] for token in h]
        outer = [_times(token, block.outer) for token in inner]
        x = [
            [a + b for a, b in zip(token, out, strict=True)]
            for token, out in zip(h, outer, strict=True)
        ]
    return [_norm(token, encoder.norm) for token in x]


def test_states_are_those_of_the_papers_equations():
    encoder, items = _encoder().double(), torch.randn(5, D, dtype=torch.float64)
    states = encoder(Jagged(items, torch.tensor([0, 4, 5])))
    wanted = _by_hand(encoder, items[:4].tolist()) + _by_hand(encoder, items[4:].tolist())
    torch.testing.assert_close(states, torch.tensor(wanted, dtype=torch.float64))


def test_the_state_of_a_position_depends_on_what_came_before_alone():
    encoder, x = _encoder(), torch.randn(6, D)
    offsets, changed = torch.tensor([0, 6]), x.clone()
    changed[3] = torch.randn(D)
    same = (encoder(Jagged(x, offsets)) == encoder(Jagged(changed, offsets))).all(1)
    assert same.tolist() == [True, True, True, False, False, False]


def test_a_history_is_encoded_the_same_alone_and_in_a_batch():
    encoder, x = _encoder(dropout=0.4), torch.randn(9, D)
    together = encoder(
        Jagged(x, torch.tensor([0, 2, 6, 9]), dropout=DropoutKeys([1, 2, 3], [2, 4, 3]))
    )
    alone = encoder(Jagged(x[2:6], torch.tensor([0, 4]), dropout=DropoutKeys([2], [4])))
    torch.testing.assert_close(together[2:6], alone)
    assert not torch.allclose(alone, encoder(Jagged(x[2:6], torch.tensor([0, 4]))))


def test_each_dropout_has_a_mask_of_its_own():
    salts = [block.salt for block in _encoder(layers=3).blocks]
    assert salts == [1, 4, 7]  # 0 is the input's; each block has three


def test_an_empty_batch_gives_every_parameter_a_gradient():
    encoder = _encoder()
    empty = Jagged(
        torch.empty(0, D, requires_grad=True), torch.tensor([0]), dropout=DropoutKeys([], [])
    )
    encoder(empty).sum().backward()
    assert all(
        parameter.grad is not None and not parameter.grad.any()
        for parameter in encoder.parameters()
    )


def test_a_history_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match="history of 7 exceeds the context of 6"):
        _encoder()(Jagged(torch.randn(7, D), torch.tensor([0, 7])))


def test_blocks_computed_again_in_backward_give_the_same_gradients():
    results = []
    for recompute in (False, True):
        encoder = _encoder(recompute=recompute, dropout=0.5)
        x = torch.linspace(-1, 1, 6 * D).view(6, D).requires_grad_()
        encoder(
            Jagged(x, torch.tensor([0, 4, 6]), dropout=DropoutKeys([3, 4], [4, 2]))
        ).square().sum().backward()
        results.append([x.grad, *(p.grad for p in encoder.parameters())])
    assert all(torch.equal(kept, again) for kept, again in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"time_bias": True}, "encoder.time_bias: sasrec reads only items"),
        ({"events": True}, "encoder.events: sasrec reads only items"),
        ({"options": {"width": 3}}, "sasrec has no options: remove 'width'"),
        ({"heads": 3}, "must divide"),
    ],
)
def test_settings_it_has_no_use_for_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        load_encoder(EncoderConfig(backbone="sasrec", **options), D, 6, 3)
