"""What several ranks compute with a baseline model equals what one computes, its own terms included."""

import numpy as np
import pytest
import torch
from ranks import run_on_ranks
from test_ranks_agree import train

DUALVAE = {
    "baseline.name": "dualvae",
    "baseline.options": {"aspects": 3, "width": 8, "kl_steps": 4},
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
}
WITHOUT_INTERESTS = {
    "sasrec": {"encoder.backbone": "sasrec"},
    "llm": {"encoder.backbone": "llm", "encoder.llm": {"config": LLAMA}},
    "dualvae on hstu": DUALVAE | {"training.accumulate": 3, "negatives.seen": False},
    "dualvae": DUALVAE | {"encoder.backbone": "shallow"},
}
WITH_INTERESTS = {
    "comirec": {"negatives.seen": False},
    "comirec, dynamic": {"baseline.options": {"routing": "dynamic"}},
    "mind": {},
    "mind, soft": {"baseline.options": {"power": 2}, "negatives.seen": False},
    "remi": {"negatives.logq": True, "negatives.seen": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WITHOUT_INTERESTS)
def test_two_ranks_give_the_losses_tables_and_parameters_of_one(case, small_data):
    if case == "llm":
        pytest.importorskip("transformers")
    changes = WITHOUT_INTERESTS[case]
    _compare(small_data, changes, changes)


@pytest.mark.slow
@pytest.mark.parametrize("case", WITH_INTERESTS)
def test_two_ranks_and_parts_give_the_same_losses_tables_and_parameters(case, small_data):
    name = case.split(",")[0]
    changes = {"baseline.name": name, "baseline.interests": 3, **WITH_INTERESTS[case]}
    dense = _compare(small_data, changes, {**changes, "training.accumulate": 3})
    assert any(name.startswith("baseline.") for name in dense)


def _compare(data, on_one, on_two):
    """The dense parameters of one rank, after their comparison with those of two."""
    losses, rows, dense, metrics = run_on_ranks(1, train, data, [], "dot", on_one)[0]
    assert len(set(losses)) == len(losses), "training does nothing"

    for other in run_on_ranks(2, train, data, [], "dot", on_two):
        other_losses, other_rows, other_dense, other_metrics = other
        np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
        torch.testing.assert_close(other_rows, rows, atol=2e-5, rtol=1e-3)
        for name, value in dense.items():
            torch.testing.assert_close(other_dense[name], value, atol=1e-3, rtol=1e-2)
        assert abs(other_metrics["recall@50"] - metrics["recall@50"]) < 0.05

    return dense
