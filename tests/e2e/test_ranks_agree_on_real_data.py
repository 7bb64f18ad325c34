"""MovieLens 100K on 1 to 4 ranks: the same losses over 50 steps, dropout and sampled negatives on, the same metrics."""

import numpy as np
import pytest
from command_line import REPOSITORY, app
from run_files import logged

from torchrec_priors.preparation.prepare import Settings, prepare

STEPS = 50
SETTINGS = ["negatives.per_set=256", 'priors.tree=["temporal:4", "genre"]', f"training.steps={STEPS}",
            "training.evaluate_every=50", "training.log_every=1", "training.batch=128"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(ml_raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    prepare(Settings("movielens", ml_raw), folder / "data")
    config = REPOSITORY / "torchx_configs/ml-100k.toml"
    for ranks in (1, 2, 3, 4):
        run = folder / str(ranks)
        app(
            "train",
            "--config",
            config,
            "--data",
            folder / "data",
            "--run",
            run,
            *SETTINGS,
            ranks=ranks,
            timeout=900,
        )
    return [folder / str(ranks) for ranks in (1, 2, 3, 4)]


@pytest.mark.campaign
def test_losses_agree_to_1e_4_and_metrics_to_1e_3(runs):
    lines = [logged(run) for run in runs]
    losses = np.array([[line["loss"] for line in of_run if "loss" in line] for of_run in lines])
    assert losses.shape == (4, STEPS)
    difference = np.abs(losses / losses[0] - 1).max(1)
    print(f"largest relative difference of losses from 1 rank's: {difference.tolist()}")
    assert (difference < 1e-4).all()
    last = [
        next(line for line in reversed(of_run) if "validation/ndcg@10" in line) for of_run in lines
    ]
    for name, value in last[0].items():
        if isinstance(value, float) and not name.startswith("validation/group/"):
            assert all(abs(other[name] - value) <= 1e-3 * max(1, abs(value)) for other in last), (
                name
            )
