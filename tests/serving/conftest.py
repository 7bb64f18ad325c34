"""A run of two steps, whose scores are nearly those of random weights."""

import pytest

from torchrec_priors.config import parse
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.training.loop import train
from torchrec_priors.training.run.folder import RunFolder

SETTINGS = {
    "model": {"dim": 8, "context": 20, "horizon": 4},
    "encoder": {
        "layers": 1,
        "heads": 2,
        "time_bias": True,
        "events": True,
        "item_features": ["release_date"],
    },
    "priors": {"tree": ["temporal:2", "genre"]},
    "negatives": {"per_set": 10},
    "table": {"init_std": 1.0},
    "training": {"batch": 8, "steps": 2, "evaluate_every": 2},
    "evaluation": {"batch": 8},
}


@pytest.fixture(scope="session")
def run(small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving") / "run"
    with join() as ranks:
        train(parse(SETTINGS), PreparedData(small_data), RunFolder(folder), ranks)
    return folder
