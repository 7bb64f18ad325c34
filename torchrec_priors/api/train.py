"""Trains a run, or resumes it: `tp.train`, and the app `train`."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from torchrec_priors.api.config_source import Changes, ConfigSource, config_of
from torchrec_priors.api.run import Run
from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.callbacks import Callbacks, Evaluation, Saved, Step
from torchrec_priors.training.loop import train as run_training
from torchrec_priors.training.observers import Observers
from torchrec_priors.training.run.claim import claimed
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.same_run import check_same_run
from torchrec_priors.training.run.started_from import source_of
from torchrec_priors.training.tracking.tracking import read_trackers


def train(
    config: ConfigSource,
    data: PreparedData | Path | str,
    run: Path | str,
    *,
    changes: Changes = None,
    init_from: Path | str | Run | None = None,
    fit_all: bool = False,
    trust: bool = False,
    on_step: Callable[[Step], object] | None = None,
    on_evaluation: Callable[[Evaluation], object] | None = None,
    on_checkpoint: Callable[[Saved], object] | None = None,
    track: str | Iterable[str] = (),
    progress: bool = True,
) -> Run:
    """Trains a run in this process, or resumes it.

    An interrupt (Ctrl-C, or "stop" in a notebook) saves a checkpoint and ends the training; the
    same call resumes it. For several processes, put the call into a script and start it with
    torchrun, or use the command `train`.

    Args:
        config: the name of a shipped configuration such as "small", the path of a TOML file, values
            by key, a `RunConfig`, or None for the defaults.
        data: the prepared data set, or its folder or URI.
        run: the folder of the run. If it has a run of the same configuration, this run is resumed.
        changes: changes to the configuration, such as `{"training.steps": 500}`.
        init_from: another run, from whose best weights this one starts.
        fit_all: whether to train on validation and test interactions, too.
        trust: whether the custom code of another run's configuration may be executed.
        on_step: called after every step; only on rank 0, like the others.
        on_evaluation: called after every evaluation on validation.
        on_checkpoint: called after every checkpoint.
        track: trackers, such as "mlflow:mlruns", "tensorboard:DIR" or "wandb:PROJECT".
        progress: whether the progress is printed to standard error.

    Returns:
        The run, which can be evaluated and asked for recommendations.

    Raises:
        UserError: the configuration does not fit the data, or the folder has another run.
        DivergedError: the loss or a gradient is not finite, or the loss is too large.
        StoppedError: it was interrupted; everything is saved.
    """
    silence_library_warnings()
    if isinstance(init_from, Run):
        init_from = init_from.path
    chosen = config_of(config, changes, trust=trust)
    if fit_all:
        chosen.training.fit_all = True
    observers = Observers(
        Callbacks(on_step, on_evaluation, on_checkpoint),
        read_trackers([track] if isinstance(track, str) else track),
        progress,
    )
    prepared = data if isinstance(data, PreparedData) else PreparedData(_place(data))
    summary, _ = train_run(chosen, prepared, Path(run), init_from, trust=trust, seen_by=observers)
    return Run(run, prepared, trust=trust, summary=summary)


def train_run(
    config: RunConfig,
    data: PreparedData,
    run: Path,
    init_from: Path | str | None = None,
    *,
    trust: bool = False,
    seen_by: Observers = Observers(),
    ready: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Any], bool]:
    """Trains or resumes a run, or fits a plain baseline, on all ranks of a launcher.

    Args:
        seen_by: who sees the training, besides the run's folder.
        ready: called when what can be checked early is checked.

    Returns:
        The summary, and whether this is the rank that prints.
    """
    data.manifest.require_users("train", data.folder)
    folder = RunFolder(run, trust)
    init_folder = None
    if config.plain.name:
        for option, given in (("--init-from", init_from), ("--track", seen_by.trackers)):
            if given:
                raise UserError(
                    f"{option}: plain.name = {config.plain.name!r} has no weights to start with "
                    "and no curves: leave it out"
                )
    if init_from is not None:
        init_folder = RunFolder(Path(init_from), trust)

    # The folder is checked before the ranks meet, so that a mistake ends the command early. It is
    # checked again once it is claimed, because from then on no other training can change it.
    check_same_run(folder, config, data)
    source_of(folder, init_folder)
    ready()
    with join(timedelta(seconds=config.training.timeout_seconds)) as ranks, claimed(run, ranks):
        check_same_run(folder, config, data)
        source = source_of(folder, init_folder)
        if config.plain.name:
            from torchrec_priors.training.plain_run import train_plain  # SciPy takes half a second

            summary = train_plain(config, data, folder, ranks)
        else:
            summary = run_training(config, data, folder, ranks, source, seen_by)
        return summary, ranks.leads


def _place(data: Path | str) -> Any:
    return data if isinstance(data, str) else str(data)
