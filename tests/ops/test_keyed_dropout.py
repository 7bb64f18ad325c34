"""A dropout mask follows from the sequence's key alone."""

import torch

from torchrec_priors.ops.gpu_kernel import pretended_gpu
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


def _as_on_a_gpu(x, keys, salt, p):
    with pretended_gpu(lambda kernel, arguments: kernel.reference(*arguments)):
        return keyed_dropout(x, keys, salt, p)


def test_the_masks_of_a_gpu_have_the_same_properties():
    x = torch.ones(7, 16)
    whole = _as_on_a_gpu(x, DropoutKeys([11, 22, 33], [2, 4, 1]), salt=3, p=0.5)
    alone = _as_on_a_gpu(x[:4], DropoutKeys([22], [4]), salt=3, p=0.5)
    assert torch.equal(whole[2:6], alone)
    others = [
        _as_on_a_gpu(x, DropoutKeys([key], [7]), salt, p=0.5)
        for key, salt in ((1, 0), (2, 0), (1, 1))
    ]
    assert len({tuple(mask.flatten().tolist()) for mask in others}) == 3

    out = _as_on_a_gpu(torch.ones(1000, 2, 32), DropoutKeys([5], [1000]), salt=0, p=0.3)
    assert out.shape == (1000, 2, 32)
    assert abs((out > 0).float().mean().item() - 0.7) < 0.01
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    # Neither rows nor columns share their units.
    kept = (out > 0).flatten(1).float()
    assert kept.mean(0).std() < 0.03
    assert kept.mean(1).std() < 0.1


def test_the_gradient_on_a_gpu_has_the_mask_of_the_output():
    x = torch.ones(5, 8, requires_grad=True)
    out = _as_on_a_gpu(x, DropoutKeys([1], [5]), salt=2, p=0.5)
    with pretended_gpu(lambda kernel, arguments: kernel.reference(*arguments)):
        out.sum().backward()
    assert torch.equal(x.grad, out)
