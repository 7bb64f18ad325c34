"""Starts a run, or resumes it: builds the model, loads its weights, and describes the run.

The first files are written only after everything has been checked.
"""

from dataclasses import dataclass

import torch.distributed as dist

from torchrec_priors.common.files import write_json
from torchrec_priors.common.own_code import remember
from torchrec_priors.common.progress import stages
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints
from torchrec_priors.training.checkpoint.keys import Progress
from torchrec_priors.training.run.ancestry import (
    Ancestry,
    Leaks,
    new_ancestry,
    read_ancestry,
    write_ancestry,
)
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.paths import write_paths
from torchrec_priors.training.run.record import record_run
from torchrec_priors.training.run.seen import write_seen
from torchrec_priors.training.trainer import Trainer


@dataclass(frozen=True)
class Started:
    """A run that is ready to train.

    Attributes:
        trainer: the model, its optimizers and its batches.
        checkpoints: the checkpoints in the run's folder.
        progress: the number of completed steps, and the best evaluation so far.
        resumed: whether a checkpoint was loaded.
        ancestry: the runs that the initial weights come from, and the interactions that this run
            and those runs were trained on.
        leaks: the validation targets that ancestors of this run were trained on; None if the run
            trains on all interactions (`fit_all`) or has no ancestors.
    """

    trainer: Trainer
    checkpoints: Checkpoints
    progress: Progress
    resumed: bool
    ancestry: Ancestry
    leaks: Leaks | None

    def warning_of_leaks(self) -> str | None:
        """Returns a warning if ancestors were trained on validation targets; otherwise None."""
        words = None if self.leaks is None else self.leaks.in_words()
        if words is None:
            return None
        return (
            f"warning: validation is not held out from {self.ancestry.in_words()}, which this run"
            f" comes from: {words}. Early stopping and the choice of the best checkpoint use"
            " figures that are too good"
        )


def start_run(
    config: RunConfig,
    data: PreparedData,
    folder: RunFolder,
    ranks: Ranks,
    init_from: RunFolder | None,
    *,
    shown: bool,
) -> Started:
    """Builds the model of a run, and loads the newest checkpoint or the initial values.

    Every rank must call it. On a large data set it takes minutes, for example to count the targets
    of each head.

    Args:
        init_from: the run from which a new run takes its initial weights.
        shown: whether the stages are shown on standard error.
    """
    # The user has named these files in the configuration, so this user trusts them from now on.
    remember(config.own_files())

    with stages(shown=ranks.leads and shown) as report:
        report("building the model")
        trained = folder.trained_on(config, data) if folder.was_started else None
        trainer = Trainer(config, data, ranks, trained=trained)
        checkpoints = Checkpoints(folder.checkpoints, ranks, config.training)
        report("loading weights")
        progress = trainer.resume(checkpoints, init_from)

        report("reading what was trained on before")
        if trained is None:
            ancestry = new_ancestry(config, data, ranks, init_from)
        else:
            ancestry = read_ancestry(folder)
        leaks = None
        if not config.training.fit_all:
            leaks = ancestry.leaks(data, "validation", ranks)
        report("planning the batches")
        trainer.prepare_batches()

        started = Started(
            trainer=trainer,
            checkpoints=checkpoints,
            progress=progress or Progress(),
            resumed=progress is not None,
            ancestry=ancestry,
            leaks=leaks,
        )
        if ranks.leads:
            _describe(started, config, data, folder, init_from, first_start=trained is None)
        dist.barrier(ranks.side)
    return started


def _describe(
    started: Started,
    config: RunConfig,
    data: PreparedData,
    folder: RunFolder,
    init_from: RunFolder | None,
    *,
    first_start: bool,
) -> None:
    """Writes the files that record the run's configuration, data and sharding; only on rank 0.

    Paths, seen items and ancestry do not change later, so only the first start writes them.
    """
    built = started.trainer.built
    if first_start:
        folder.path.mkdir(parents=True, exist_ok=True)
        depths = built.depths if built.model.baseline is None else None
        write_paths(folder.paths, built.model.tree, built.counted, depths)
        write_seen(folder.seen, built.seen_I)
        write_ancestry(started.ancestry, folder)

    record_run(folder, config, data, init_from, started.ancestry.ancestors)
    write_json(folder.sharding, built.plan.to_json())
