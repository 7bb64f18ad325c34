"""What several ranks compute with a baseline equals what one computes, terms of its own included."""

import numpy as np
import pytest
import torch
from ranks import run_on_ranks
from test_ranks_agree import train

CASES = {
    "comirec": {"negatives.seen": False},
    "comirec, dynamic": {"baseline.options": {"routing": "dynamic"}},
    "mind": {},
    "mind, soft": {"baseline.options": {"power": 2}, "negatives.seen": False},
    "remi": {"negatives.logq": True, "negatives.seen": False},
}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_and_parts_give_the_same_losses_tables_and_parameters(case, small_data):
    more = {"baseline.name": case.split(",")[0], "baseline.interests": 3, **CASES[case]}
    losses, rows, dense, metrics = run_on_ranks(1, train, small_data, [], "dot", more)[0]
    for other in run_on_ranks(2, train, small_data, [], "dot", {**more, "training.accumulate": 3}):
        np.testing.assert_allclose(other[0], losses, rtol=1e-4)
        torch.testing.assert_close(other[1], rows, atol=2e-5, rtol=1e-3)
        assert any(name.startswith("baseline.") for name in dense)
        for name, value in dense.items():
            torch.testing.assert_close(other[2][name], value, atol=1e-3, rtol=1e-2)
        assert abs(other[3]["recall@50"] - metrics["recall@50"]) < 0.05
