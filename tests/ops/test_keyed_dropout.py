"""A dropout mask follows from the sequence's key alone."""

import torch

from torchrec_priors.ops.keyed_dropout import DropoutKeys, keyed_dropout


def test_a_sequence_is_masked_the_same_in_any_batch():
    x = torch.ones(7, 16)
    whole = keyed_dropout(x, DropoutKeys([11, 22, 33], [2, 4, 1]), salt=3, p=0.5)
    alone = keyed_dropout(x[:4], DropoutKeys([22], [4]), salt=3, p=0.5)
    torch.testing.assert_close(whole[2:6], alone)


def test_other_keys_and_other_salts_give_other_masks():
    x = torch.ones(8, 32)
    masks = [
        keyed_dropout(x, DropoutKeys([key], [8]), salt, p=0.5)
        for key, salt in ((1, 0), (2, 0), (1, 1))
    ]
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_keeps_the_expected_share_and_mean():
    out = keyed_dropout(torch.ones(1000, 64), DropoutKeys([5], [1000]), salt=0, p=0.3)
    assert abs((out > 0).float().mean().item() - 0.7) < 0.01
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}


def test_is_the_identity_outside_training():
    x = torch.randn(3, 4)
    assert keyed_dropout(x, None, salt=0, p=0.5) is x
