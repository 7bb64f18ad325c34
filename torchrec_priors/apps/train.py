"""The app `train`: trains a run, or resumes it."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import TRUST
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads
from torchrec_priors.config import load_config
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.training.loop import SELECTED_BY
from torchrec_priors.training.loop import train as run_training
from torchrec_priors.training.run.claim import claimed
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.started_from import source_of


def train(
    config: Annotated[Path, Option(help="TOML file of the run's configuration.")],
    data: Annotated[str, Option(metavar="PATH|URI", help="Folder of the prepared data set.")],
    run: Annotated[
        Path,
        Option(
            help="Folder of the run. If it contains a run of the same configuration, that run is "
            "resumed."
        ),
    ],
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
    changes = list(overrides or [])
    if fit_all:
        changes.append("training.fit_all=true")
    settings = load_config(config, changes, trust=trust)
    prepared = PreparedData(data)
    folder = RunFolder(run, trust)
    init_folder = None
    if init_from is not None and settings.plain.name:
        raise UserError(
            f"--init-from: plain.name = {settings.plain.name!r} has no weights to start with: "
            "leave it out"
        )
    if init_from is not None:
        init_folder = RunFolder(init_from, trust)

    # The folder is checked before the ranks meet, so that a mistake ends the command early. It is
    # checked again once it is claimed, because from then on no other training can change it.
    folder.check_same_run(settings, prepared)
    source_of(folder, init_folder)
    use_threads(threads)
    with join(timedelta(seconds=settings.training.timeout_seconds)) as ranks, claimed(run, ranks):
        folder.check_same_run(settings, prepared)
        source = source_of(folder, init_folder)
        if settings.plain.name:
            from torchrec_priors.training.plain_run import train_plain  # SciPy takes half a second

            summary = train_plain(settings, prepared, folder, ranks)
        else:
            summary = run_training(settings, prepared, folder, ranks, source)
        if not ranks.leads:
            return

        best = summary[f"validation/{SELECTED_BY}"]
        if best is None:
            outcome = "fitted on all interactions, nothing left to validate on"
        elif settings.plain.name:
            outcome = f"validation {SELECTED_BY} {best:.4f}"
        else:
            outcome = f"best validation {SELECTED_BY} {best:.4f} at step {summary['best_step']}"
        if settings.plain.name:
            work = f"{settings.plain.name} in {summary['seconds_to_fit']:.1f} s"
        else:
            work = f"{summary['steps']} steps ({summary['stopped']})"
        print(f"{run}: {work}, {outcome}")


def main() -> None:
    command.run(train)


if __name__ == "__main__":
    main()
