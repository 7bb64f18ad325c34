"""Measures how fast synthetic marketplaces are prepared and read."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from torchrec_priors.bench.rows import Row
from torchrec_priors.bench.timed import peak_bytes
from torchrec_priors.config import parse
from torchrec_priors.data.batch import make_batch
from torchrec_priors.data.windows import WindowStream
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.synthetic.files import generate
from torchrec_priors.training.build import build_model
from torchrec_priors.training.loss_weights import set_loss_weights
from torchrec_priors.training.optimizers import Optimizers
from torchrec_priors.training.sampler import make_sampler
from torchrec_priors.training.step import step

Report = Callable[[str], None]

# Numbers of interactions. Memory and time per row should not be larger for the longer log.
_LOGS = (1_000_000, 5_000_000)
_READ = 400_000  # interactions
_SIZE_1 = {
    "model": {"size": "paper-1", "context": 400, "horizon": 8},
    "encoder": {"time_bias": True, "events": True},
    "priors": {"tree": ["temporal:2"]},
    "training": {"batch": 32, "steps": 1_000, "fit_all": True},
}


def prepare_rows(folder: Path, report: Report) -> list[Row]:
    """Measures the command `prepare` on logs of two lengths.

    The rows have the seconds, the interactions per second and the peak memory of the process.
    """
    rows = []
    for interactions in _LOGS:
        raw = folder / f"raw-{interactions}"
        out = folder / f"data-{interactions}"
        report(f"prepare: generating {interactions:,} interactions")
        generate(raw, interactions, 0)

        report(f"prepare: {interactions:,} interactions")
        command = [sys.executable, "-m", "torchrec_priors.apps.prepare", "--dataset", "marketplace"]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--raw", str(raw), "--out", str(out)], stdout=subprocess.DEVNULL
        )
        # Unlike `process.wait`, this also returns the memory that the process has used.
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise RuntimeError(f"prepare ended with status {status}")

        name = f"{interactions:,} interactions"
        rows.append(_row("prepare", name, seconds, interactions, used.ru_maxrss * 1024))
    return rows


def reader_rows(folder: Path, repeats: int, report: Report) -> list[Row]:
    """Measures tokens per second: first for reading alone, then for training a `paper-1` HSTU."""
    report(f"reader: generating {_READ:,} interactions")
    generate(folder / "raw", _READ, 0)
    prepare(Settings("marketplace", folder / "raw"), folder / "data")
    config = parse(_SIZE_1)
    data = PreparedData(folder / "data")

    with join() as ranks:
        built = build_model(config, data, ranks)
        set_loss_weights(built, config)
        optimizers = Optimizers(built, config)
        sampler = make_sampler(built, config, data, ranks)
        stream = WindowStream(
            data,
            context=config.model.context,
            horizon=config.model.horizon,
            batch=config.training.batch,
            seed=0,
            balanced_for=config.model.dim,
            columns=built.training_columns,
            training_end_U=data.lengths,
        )

        # Batches are made as for training, but nothing is computed with them.
        report("reader: reading an epoch")
        draw = sampler.draw(0)
        read = 0
        started = time.perf_counter()
        with closing(iter(stream)) as windows_of_steps:
            for windows in itertools.islice(windows_of_steps, stream.steps_an_epoch):
                make_batch(windows, draw, feature=FEATURE, seed=0)
                read += int(windows.contexts.sum())
        reading = time.perf_counter() - started
        peak = peak_bytes()

        report("reader: training")
        built.parallel.train()
        trained = 0
        training = 0.0
        for windows in itertools.islice(stream, repeats + 1):
            batch = make_batch(windows, sampler.draw(windows.step), feature=FEATURE, seed=0)
            started = time.perf_counter()
            step(built, optimizers, batch)
            # The first step also makes the optimizer's state, so its time is left out.
            if windows.step:
                trained = trained + int(windows.contexts.sum())
                training = training + time.perf_counter() - started

    rows = [_row("reader", "reading an epoch", reading, read, peak)]
    rows.append(_row("reader", f"{repeats} steps of training", training, trained, peak_bytes()))
    faster = rows[0].tokens_per_s / rows[1].tokens_per_s
    return [Row(**{**vars(rows[0]), "speedup": faster}), rows[1]]


def _row(shape: str, variant: str, seconds: float, tokens: int, peak: int) -> Row:
    """Returns the row of a single measurement."""
    return Row(shape, variant, seconds, 0.0, tokens / seconds, peak, 0, float(tokens))
