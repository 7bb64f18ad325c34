"""What rivals compute does not depend on the number of ranks."""

import numpy as np
import pytest
import torch
from ranks import run_on_ranks
from test_ranks_agree import train

DUALVAE = {
    "baseline.name": "dualvae",
    "baseline.options": {"aspects": 3, "width": 8, "kl_steps": 4},
}
RIVALS = {
    "sasrec": {"encoder.backbone": "sasrec"},
    "dualvae on hstu": DUALVAE | {"training.accumulate": 3, "negatives.seen": False},
    "dualvae": DUALVAE | {"encoder.backbone": "shallow"},
}


@pytest.mark.parametrize("rival", RIVALS)
def test_two_ranks_give_the_losses_tables_and_parameters_of_one(rival, small_data):
    ((losses, rows, dense, metrics),) = run_on_ranks(1, train, small_data, [], "dot", RIVALS[rival])
    for other_losses, other_rows, other_dense, other_metrics in run_on_ranks(
        2, train, small_data, [], "dot", RIVALS[rival]
    ):
        np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
        torch.testing.assert_close(other_rows, rows, atol=2e-5, rtol=1e-3)
        for name, value in dense.items():
            torch.testing.assert_close(other_dense[name], value, atol=1e-3, rtol=1e-2)
        assert abs(other_metrics["recall@50"] - metrics["recall@50"]) < 0.05
    assert len(set(losses)) == len(losses), "training does nothing"
