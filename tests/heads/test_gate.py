"""The gate's first probabilities, and how certain heads are."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.heads.certainty import Certainty
from torchrec_priors.heads.gate import Gate


def test_probabilities_start_at_the_shares_of_training_targets_whatever_the_state():
    gate = Gate(4, torch.tensor([True, True, False]))
    gate.start_from(torch.tensor([0.3, 0.0003, 0.5]))
    probability = gate.log_probability(torch.randn(5, 4)).exp()
    torch.testing.assert_close(probability, torch.tensor([[0.3, 0.0003, 1.0]]).expand(5, 3))


def test_a_share_of_none_or_all_is_a_finite_number():
    gate = Gate(4, torch.tensor([True, True]))
    gate.start_from(torch.tensor([0.0, 1.0]))
    assert gate(torch.zeros(1, 4)).isfinite().all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.integers(1, 4))
def test_variance_of_a_heads_losses_is_forgotten_step_by_step(seed, steps):
    generator = torch.Generator().manual_seed(seed)
    certainty, paths = Certainty(3), torch.tensor([0, 0, 1, 0, 1])
    moments = {path: [] for path in range(3)}
    for _ in range(steps):
        nll = torch.rand(5, generator=generator) * 9
        certainty.update(
            Certainty.sums(nll[:2], paths[:2], 3) + Certainty.sums(nll[2:], paths[2:], 3)
        )  # of two ranks
        for path in (0, 1):
            own = nll[paths == path]
            moments[path].append((own.mean(), (own**2).mean()))
    expected = []
    for path in (0, 1):
        weights = torch.tensor([0.99**age for age in reversed(range(steps))])
        mean, square = (
            torch.stack(part) @ weights / weights.sum() for part in zip(*moments[path], strict=True)
        )
        expected.append(square - mean**2)
    expected.append(
        max(expected)
    )  # a head without any positive is as uncertain as the most uncertain one
    torch.testing.assert_close(certainty.variance(), torch.stack(expected), rtol=1e-3, atol=1e-4)
