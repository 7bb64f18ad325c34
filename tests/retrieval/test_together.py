"""A state has the same bits whether its history is encoded alone or with others; if it would not, it is alone."""

import logging
from types import SimpleNamespace

import pytest
import torch

from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.encoder.hstu import HSTU
from torchrec_priors.ops.single_thread import single_thread
from torchrec_priors.retrieval.together import CHECKS, Together
from torchrec_priors.settings.encoder import EncoderConfig

_CONTEXT = 200


def _model(dim, **options):
    """A model whose states come from an encoder with random weights."""
    torch.manual_seed(0)
    encoder = HSTU(EncoderConfig(**options), dim, _CONTEXT, event_types=5).eval()
    with torch.no_grad():
        for weights in encoder.parameters():
            weights.add_(0.1 * torch.randn(weights.shape))
    return SimpleNamespace(encoder=encoder, states=encoder)


def _histories(lengths, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    return Jagged(
        torch.randn(tokens, dim, generator=generator),
        torch.tensor([0, *lengths]).cumsum(0),
        torch.randint(10**12, (tokens,), generator=generator).sort().values,
        torch.randint(5, (tokens,), generator=generator),
    )


def _one(histories, number):
    part = slice(*histories.offsets_B1[number : number + 2].tolist())
    lengths = torch.tensor([0, part.stop - part.start])
    return Jagged(
        histories.vector_Nd[part], lengths, histories.time_N[part], histories.event_N[part]
    )


@pytest.mark.parametrize("dim", [8, 64, 128])
@torch.no_grad()
def test_batches_of_all_sizes_have_the_bits_of_single_histories(dim):
    model = _model(dim, time_bias=dim == 64, events=dim != 64, layers=1 + (dim < 100))
    together = Together(model)
    random = torch.Generator().manual_seed(dim)
    few = torch.randint(1, 9, (24,), generator=random).tolist()
    any_length = torch.randint(1, _CONTEXT + 1, (5,), generator=random).tolist()
    lengths = [1, 2, 3, 15, 16, 17, 31, 32, 33, *few, *any_length, _CONTEXT]
    histories = _histories(lengths, dim)
    with single_thread():
        alone = [together.states(_one(histories, number)) for number in range(len(lengths))]
        together._checks = 0  # without this, nothing is tested
        for first, last in [(0, 2), (5, 9), (3, 30), (30, 38), (0, len(lengths))]:
            bounds = histories.offsets_B1[first : last + 1]
            part = slice(int(bounds[0]), int(bounds[-1]))
            some = Jagged(
                histories.vector_Nd[part],
                bounds - bounds[0],
                histories.time_N[part],
                histories.event_N[part],
            )
            if torch.backends.mkl.is_available():
                assert torch.equal(together.states(some), torch.cat(alone[first:last]))
        # In any case, what is checked is what is returned.
        checking = Together(model)
        for _ in range(CHECKS + 1):
            assert torch.equal(checking.states(histories), torch.cat(alone))


@torch.no_grad()
def test_states_that_depend_on_the_batch_are_computed_alone(caplog):
    caplog.set_level(logging.INFO)
    model = _model(24)
    passes = []

    def states(histories):
        passes.append(len(histories.vector_Nd))
        return model.encoder(histories) + 1e-6 * len(histories.vector_Nd)

    together = Together(SimpleNamespace(encoder=model.encoder, states=states))
    histories = _histories([40, 50, 60], 24)
    first = together.states(histories)
    assert passes == [160, 64, 64, 64]
    assert torch.equal(together.states(histories), first)
    assert passes[4:] == [64, 64, 64]
    assert caplog.text.count("encoded one after another") == 1


@torch.no_grad()
def test_after_some_equal_batches_there_is_one_pass():
    model = _model(24)
    passes = []

    def states(histories):
        passes.append(len(histories.vector_Nd))
        return torch.ones(histories.vector_Nd.shape)

    together = Together(SimpleNamespace(encoder=model.encoder, states=states))
    histories = _histories([40, 50, 60], 24)
    for _ in range(CHECKS + 2):
        together.states(histories)
    assert passes == [160, 64, 64, 64] * CHECKS + [160, 160]
