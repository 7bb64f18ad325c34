"""What may be among the best: the C++ loop finds what PyTorch's operations find."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.retrieval import reaching
from torchrec_priors.retrieval.reaching import COLUMNS, Reaching

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")

SIZES = {
    "paths": st.integers(1, 4),
    "users": st.integers(1, 5),
    "zeros": st.integers(0, 3),
    "columns": st.integers(1, 3).map(lambda blocks: blocks * COLUMNS),
    "missing": st.integers(0, COLUMNS - 1),
    "seed": st.integers(0, 10_000),
}


def _both(users, columns):
    native, plain = (Reaching(users, columns, torch.device("cpu")) for _ in range(2))
    assert native._library is not None
    plain._library = None
    return native, plain


def _agree(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@settings(max_examples=40, deadline=None)
@given(**SIZES, biased=st.booleans())
def test_scores(paths, users, zeros, columns, missing, seed, biased):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(-9, 9, (paths, users + zeros, columns), generator=generator).float()
    bias = torch.randn(paths, users, generator=generator) if biased else None
    if bias is not None:
        bias[0, 0] = -torch.inf
    threshold = torch.randint(-9, 11, (users,), generator=generator).float()
    threshold[-1] = torch.finfo(torch.float32).min
    native, plain = _both(users, columns)
    found = native.scores(score, bias, columns - missing, threshold)
    _agree(found, plain.scores(score, bias, columns - missing, threshold))
    highest = (score[:, :users] if bias is None else score[:, :users] + bias[..., None]).amax(0)[
        :, : columns - missing
    ]
    assert set(zip(*map(torch.Tensor.tolist, found), strict=True)) == {
        (user, column)
        for user in range(users)
        for column in range(columns - missing)
        if highest[user, column] >= threshold[user]
    }


@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_bounds(paths, users, zeros, columns, missing, seed):
    generator = torch.Generator().manual_seed(seed)
    product = torch.randint(
        -(2**20), 2**20, (paths, users + zeros, columns), generator=generator, dtype=torch.int32
    )
    margin, step = (
        torch.rand(users, generator=generator) * 2**18,
        torch.rand(columns, generator=generator),
    )
    threshold = (torch.rand(users, generator=generator) - 0.2) * 2**20
    native, plain = _both(users, columns)
    items = columns - missing
    found = native.bounds(product, margin, step, items, threshold)
    _agree(found, plain.bounds(product, margin, step, items, threshold))


def test_without_a_compiler_the_search_goes_on(monkeypatch):
    monkeypatch.setattr(reaching, "load_native", lambda _: None)
    score = torch.tensor([[[1.0, 3.0] + [0.0] * 62]])
    user, column = Reaching(1, 64, torch.device("cpu")).scores(score, None, 2, torch.tensor([2.0]))
    assert (user.tolist(), column.tolist()) == ([0], [1])
