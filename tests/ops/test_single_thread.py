"""One thread for the caller, and the number of every other thread stays."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from torchrec_priors.ops import single_thread as module
from torchrec_priors.ops.single_thread import single_thread


@pytest.fixture
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("one_by_one", [True, False])
def test_only_the_calling_thread_is_limited(monkeypatch, one_by_one):
    if not one_by_one:
        monkeypatch.setattr(module, "_library", lambda: None)
    elif module._library() is None:
        pytest.skip("this build of PyTorch has no OpenMP or MKL")

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2
        with single_thread():
            assert torch.get_num_threads() == 1
            with single_thread():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
            if one_by_one:
                assert pool.submit(torch.get_num_threads).result() == 2
        assert torch.get_num_threads() == 2

        with pytest.raises(ZeroDivisionError), single_thread():
            _ = 1 / 0
        assert torch.get_num_threads() == 2
