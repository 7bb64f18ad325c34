"""The app `experiment`: trains, evaluates and compares the runs that one file describes.

The configurations that an experiment compares are called cells. Each cell has a run for each seed;
cells that differ only in their evaluation share runs.
"""

import logging
import signal
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import TRUST
from torchrec_priors.apps.threads import check_threads
from torchrec_priors.common.limits import MOST_AT_ONCE

log = logging.getLogger(__name__)


class Split(StrEnum):
    validation = "validation"
    test = "test"


def experiment(
    file: Annotated[
        Path,
        Argument(
            help="TOML file of the experiment, or the name of one that comes with the project."
        ),
    ],
    data: Annotated[
        str | None, Option(metavar="PATH|URI", help="Prepared data set. [the file's]")
    ] = None,
    out: Annotated[
        Path | None,
        Option(
            help="Folder for the runs and the files <split>/results.parquet and .md. "
            "[experiments/<name>]"
        ),
    ] = None,
    split: Annotated[
        Split | None, Option(help="Split to evaluate on. [the file's; validation]")
    ] = None,
    at_once: Annotated[
        int | None,
        Option(min=1, max=MOST_AT_ONCE, help="Number of runs at the same time. [the file's; 1]"),
    ] = None,
    only: Annotated[
        list[str] | None,
        Option(metavar="CELL", help="Run only this cell. Can be repeated."),
    ] = None,
    scheduler: Annotated[
        str | None,
        Option(
            help="TorchX scheduler to run on, such as local_cwd. [each run is a process with one "
            "thread on this machine]"
        ),
    ] = None,
    ranks: Annotated[
        str,
        Option("-j", "--ranks", help="With --scheduler: nodes x processes per node for each run."),
    ] = "1x1",
    no_keep: Annotated[
        bool, Option("--no-keep", help="Remove a run's checkpoints after it is evaluated.")
    ] = False,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    threads: Annotated[
        int | None,
        Option(
            help="The most threads with which each process computes. [1; with --scheduler its "
            "cores / processes]"
        ),
    ] = None,
    search: Annotated[
        bool,
        Option(
            "--search",
            help="Try the values of the file's [search], on validation only. Writes "
            "search/best.toml, an experiment with the chosen values, and search/results.parquet "
            "and .md. --no-keep keeps the checkpoints of the best trials.",
        ),
    ] = False,
) -> int:
    """Runs the missing runs of an experiment, and writes a table of all results."""
    check_threads(threads)
    with command.starting():
        from torchrec_priors.api.experiment import experiment as run_experiment

    # SIGTERM ends the experiment like Ctrl-C: runs that are being trained stop, and can be resumed.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        found = run_experiment(
            file,
            data,
            out,
            split=None if split is None else split.value,
            at_once=at_once,
            only=only or [],
            scheduler=scheduler,
            ranks=ranks,
            keep=not no_keep,
            trust=trust,
            threads=threads,
            search=search,
        )
    except KeyboardInterrupt:
        log.warning("interrupted: the same command resumes from here")
        return 1
    print(found.text if search else f"{found.text}\nwritten to {found.folder}")
    return 1 if found.failed else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    command.run(experiment, single_process=True)


if __name__ == "__main__":
    main()
