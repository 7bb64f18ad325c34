"""A run of two steps, whose scores are nearly those of random weights."""

import pytest
import tiny

from torchrec_priors.config import parse

SETTINGS = tiny.settings(
    model={"context": 20},
    encoder={"time_bias": True, "events": True, "item_features": ["release_date"]},
    priors={"tree": ["temporal:2", "genre"]},
    negatives={"per_set": 10},
    table={"init_std": 1.0},
    training={"batch": 8, "steps": 2},
    evaluation={"batch": 8},
)


@pytest.fixture(scope="session")
def run(trained):
    return trained(parse(SETTINGS))
