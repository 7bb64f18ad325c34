"""The step of the GPU report is that of `train`: the same losses, with a plain table in place of TorchRec's."""

from dataclasses import replace

import pytest
import torch

from torchrec_priors.bench import training
from torchrec_priors.bench.drawn_log import draw_log
from torchrec_priors.bench.gpu.plain_training import PlainTraining
from torchrec_priors.bench.shapes import SHAPES
from torchrec_priors.bench.workload import make_workload
from torchrec_priors.embedding.item_table import Shard, initialise_rows

SMALL = {"sequences": 6, "context": 12, "items": 300, "negatives": 64, "dim": 16, "heads": 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["merrec", "pixel8m", "ebnerd"])
def test_steps_with_a_plain_table_have_the_losses_of_train(name, tmp_path):
    shape = replace(SHAPES[name], **SMALL)
    make_workload(shape, tmp_path / "data")
    with training.runner(shape, tmp_path / "data", {}) as run:
        expected = [run(number) for number in range(4)]

    rows = torch.empty(shape.items, shape.dim)
    initialise_rows(Shard(rows, 0), seed=0, std=0.02)
    plain = PlainTraining(shape, draw_log(shape), rows)
    losses = [plain.step(plain.batch(number)).loss for number in range(4)]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert abs(losses[3] - losses[0]) > 1e-3 * abs(losses[0])  # the model learns
