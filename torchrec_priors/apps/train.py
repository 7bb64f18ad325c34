"""Trains a run, or goes on with it."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.config import load_config
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.training.loop import SELECTED_BY
from torchrec_priors.training.loop import train as run_training
from torchrec_priors.training.process import join
from torchrec_priors.training.run_folder import RunFolder


def train(
    config: Annotated[Path, Option(help="TOML file of the run's configuration.")],
    data: Annotated[Path, Option(help="Folder of the prepared data set.")],
    run: Annotated[Path, Option(help="Folder of the run; a run of the same configuration there is gone on with.")],
    overrides: Annotated[
        list[str] | None,
        Argument(metavar="[KEY=VALUE]...", help="Changes to the configuration, as in model.dim=64."),
    ] = None,
) -> None:
    """Trains on all ranks of the launcher (torchrun, TorchX), or in this process alone."""
    settings = load_config(config, overrides)
    prepared = PreparedData(data)
    folder = RunFolder(run)
    folder.check_same_run(settings, prepared)
    with join() as ranks:
        summary = run_training(settings, prepared, folder, ranks)
        if ranks.leads:
            best = f"validation {SELECTED_BY} {summary[f'validation/{SELECTED_BY}']:.4f} at step {summary['best_step']}"
            print(f"{run}: {summary['steps']} steps ({summary['stopped']}), best {best}")


def main() -> None:
    command.run(train)


if __name__ == "__main__":
    main()
