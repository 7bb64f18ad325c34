"""The app `train`: trains a run, or resumes it."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import TRUST
from torchrec_priors.apps.completion import complete_config
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads
from torchrec_priors.config import load_config
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.specification import check_specifications
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.same_run import check_same_run
from torchrec_priors.training.tracking.tracking import read_trackers


def train(
    data: Annotated[str, Option(metavar="PATH|URI", help="Folder of the prepared data set.")],
    run: Annotated[
        Path,
        Option(
            help="Folder of the run. If it contains a run of the same configuration, that run is "
            "resumed."
        ),
    ],
    config: Annotated[
        Path | None,
        Option(
            help="TOML file of the run's configuration, or the name of one that comes with the "
            "project, such as small. [the default of every key]",
            autocompletion=complete_config,
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        Option(
            help="Folder of another run. The new run starts from its best weights; items and heads "
            "are matched by name."
        ),
    ] = None,
    fit_all: Annotated[
        bool,
        Option(
            "--fit-all",
            help="Also train on validation and test interactions. Such a model is for serving and "
            "cannot be evaluated.",
        ),
    ] = False,
    track: Annotated[
        list[str] | None,
        Option(
            metavar="TRACKER[:PLACE]",
            help="Also show the curves and the hyper-parameters in tensorboard:FOLDER, "
            "mlflow:FOLDER, mlflow:URI, wandb:PROJECT, or torchx (the trackers of .torchxconfig). "
            "Can be repeated.",
        ),
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    threads: Annotated[int | None, Option(help=THREADS)] = None,
    overrides: Annotated[
        list[str] | None,
        Argument(
            metavar="[KEY=VALUE]...", help="Changes to the configuration, such as model.dim=64."
        ),
    ] = None,
) -> None:
    """Trains a run, or resumes it.

    It trains on all ranks of a launcher (torchrun, TorchX), or without a launcher in this process.
    A plain baseline (plain.name) is fitted at once.
    """
    check_threads(threads)
    # Mistakes in these are found before PyTorch is imported, which takes seconds.
    changes = list(overrides or [])
    if fit_all:
        changes.append("training.fit_all=true")
    settings = load_config(config, changes, trust=trust)
    trackers = read_trackers(track or ())
    prepared = PreparedData(data)
    check_specifications(settings.priors.tree, prepared.manifest)
    check_same_run(RunFolder(run, trust), settings, prepared)

    with command.starting():
        from torchrec_priors.api.train import train_run
        from torchrec_priors.training.observers import Observers
        from torchrec_priors.training.summary import outcome

    summary, leads = train_run(
        settings,
        prepared,
        run,
        init_from,
        trust=trust,
        seen_by=Observers(trackers=trackers),
        ready=partial(use_threads, threads, warns=True),
    )
    if leads:
        print(f"{run}: {outcome(summary)}")


def main() -> None:
    command.run(train)


if __name__ == "__main__":
    main()
