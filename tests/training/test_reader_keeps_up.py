"""Reading is not part of a step's time: ratios within one run, on a made-up marketplace."""

import itertools
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from torchrec_priors.config import parse
from torchrec_priors.data.batch import make_batch
from torchrec_priors.data.windows import WindowStream
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.synthetic.files import generate
from torchrec_priors.training.build import build_model
from torchrec_priors.training.loop import train
from torchrec_priors.training.loss_weights import set_loss_weights
from torchrec_priors.training.optimizers import Optimizers
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.sampler import make_sampler
from torchrec_priors.training.step import step

STEPS = 8
CONFIG = {
    "model": {"size": "paper-1", "context": 400, "horizon": 8},
    "encoder": {"time_bias": True, "events": True},
    "priors": {"tree": ["temporal:2"]},
    "training": {"batch": 32, "steps": STEPS, "fit_all": True},
}


@pytest.fixture(scope="module")
def marketplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marketplace")
    generate(folder / "raw", 400_000, 0)
    prepare(Settings("marketplace", folder / "raw"), folder / "data")
    return PreparedData(folder / "data")


def _tokens(stream: WindowStream, sampler) -> tuple[int, float]:
    """(tokens, seconds) of an epoch of batches that nobody waits for; their negatives are the sampler's affair."""
    draw, tokens, started = sampler.draw(0), 0, time.monotonic()
    with closing(iter(stream)) as windows_of_steps:
        for windows in itertools.islice(windows_of_steps, stream.steps_an_epoch):
            make_batch(windows, draw, feature=FEATURE, seed=0)
            tokens += int(windows.contexts.sum())
    return tokens, time.monotonic() - started


@pytest.mark.campaign
def test_one_process_reads_twenty_times_faster_than_it_trains(marketplace):
    config = parse(CONFIG)
    with join() as ranks:
        built = build_model(config, marketplace, ranks)
        set_loss_weights(built, config)
        optimizers, sampler = (
            Optimizers(built, config),
            make_sampler(built, config, marketplace, ranks),
        )
        stream = WindowStream(
            marketplace,
            context=400,
            horizon=8,
            batch=32,
            seed=0,
            balanced_for=128,
            columns=built.training_columns,
        )
        built.parallel.train()
        trained, took = 0, 0.0
        for windows in itertools.islice(stream, STEPS + 1):
            batch = make_batch(windows, sampler.draw(windows.step), feature=FEATURE, seed=0)
            started = time.monotonic()
            step(built, optimizers, batch)
            if windows.step:  # the first one makes the optimizer's state
                trained, took = (
                    trained + int(windows.contexts.sum()),
                    took + time.monotonic() - started,
                )
        read, reading = _tokens(stream, sampler)
    ratio = (read / reading) / (trained / took)
    print(
        f"reads {read / reading:,.0f} tokens a second, trains {trained / took:,.0f}: {ratio:,.0f} times"
    )
    assert ratio > 20


@pytest.mark.campaign
def test_training_hardly_waits_for_data(marketplace, tmp_path):
    config = parse({**CONFIG, "training": {**CONFIG["training"], "steps": 3 * STEPS}})
    with join() as ranks:
        summary = train(config, marketplace, RunFolder(tmp_path / "run"), ranks)
    waited = summary["seconds_waiting_for_data"] / summary["seconds_of_last_start"]
    print(f"waits for data {waited:.2%} of the time")
    assert waited < 0.02


_EPOCHS = """
import itertools, sys
from pathlib import Path
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.data.windows import WindowStream

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

data = PreparedData(sys.argv[1])
stream = WindowStream(data, context=400, horizon=8, batch=32, seed=0, shuffled_row_groups=4, workers=1,
                      columns=["timestamps", "events"], balanced_for=128)
batches = iter(stream)
for epoch in range(8):
    for _ in itertools.islice(batches, stream.steps_an_epoch):
        pass
    print(resident(), flush=True)
batches.close()
"""


@pytest.mark.campaign
def test_memory_does_not_grow_over_epochs(marketplace):
    """An epoch has 5 MB of items, times and events."""
    ran = subprocess.run(
        [sys.executable, "-c", _EPOCHS, str(marketplace.folder)],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    resident = [int(line) / 2**20 for line in ran.stdout.split()]
    print("MB after each epoch:", *(f"{size:.0f}" for size in resident))
    assert max(resident[2:]) - resident[1] < 8
