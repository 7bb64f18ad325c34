"""Noise follows from the sequence's key alone."""

import torch

from torchrec_priors.ops.keyed_dropout import DropoutKeys
from torchrec_priors.ops.keyed_noise import keyed_normal

CPU = torch.device("cpu")


def test_a_sequence_has_the_same_noise_in_any_batch():
    whole = keyed_normal(DropoutKeys([11, 22, 33], [2, 4, 1]), 3, 16, CPU)
    assert torch.equal(whole[2:6], keyed_normal(DropoutKeys([22], [4]), 3, 16, CPU))
    assert keyed_normal(DropoutKeys([], []), 3, 16, CPU).shape == (0, 16)


def test_other_keys_and_other_salts_give_other_noise():
    noise = [
        keyed_normal(DropoutKeys([key], [8]), salt, 32, CPU)
        for key, salt in ((1, 0), (2, 0), (1, 1))
    ]
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


def test_it_is_standard_normal():
    noise = keyed_normal(DropoutKeys([5], [1000]), 0, 64, CPU)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
