"""The app `experiment`: trains, evaluates and compares the runs that one file describes.

The configurations that an experiment compares are called cells. Each cell has a run for each seed;
cells that differ only in their evaluation share runs.
"""

import logging
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import TRUST
from torchrec_priors.apps.evaluate import Split
from torchrec_priors.apps.threads import check_threads
from torchrec_priors.common.files import write_whole
from torchrec_priors.config import read_toml
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.experiment.file import MOST_AT_ONCE, ExperimentFile, read_experiment
from torchrec_priors.experiment.matrix import cells_of, flat
from torchrec_priors.experiment.plan import PlannedRun, plan
from torchrec_priors.experiment.processes import InPlace, Launcher, OnScheduler
from torchrec_priors.experiment.results import NOT_RUN, Results, collect
from torchrec_priors.experiment.results_table import About, markdown
from torchrec_priors.experiment.runner import Runner, lock
from torchrec_priors.prepared.data_set import PreparedData

log = logging.getLogger(__name__)


def experiment(
    file: Annotated[Path, Argument(help="TOML file of the experiment.")],
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
    described = read_experiment(file)
    if search and described.search is None:
        raise UserError(f"--search: {file} has no section [search]")
    if search and split is Split.test:
        raise UserError(
            "--search: values are chosen only on validation: leave out --split test, and give it "
            "to best.toml"
        )
    if ranks != "1x1" and scheduler is None:
        raise UserError("-j needs --scheduler: without a scheduler, every run is a single process")
    if data is None and not described.data:
        raise UserError(f"{file} names no data set: give --data, or `data` in the file")

    prepared = PreparedData(data or described.data)
    evaluated_on = split.value if split else described.split
    out = out or Path("experiments") / described.name
    try:
        cells = cells_of(described)
        base = read_toml(Path(described.config), "config")
        runs = plan(cells, described.seeds, base, flat(described.budget))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    names = [cell.name for cell in cells]

    # Child processes inherit the lock. So if this process is killed, the folder stays locked until
    # the child processes have ended.
    held = lock(out)
    launcher: Launcher = InPlace([held])
    if scheduler is not None:
        launcher = OnScheduler(scheduler, ranks, out / "logs")
    # SIGTERM ends the experiment like Ctrl-C: runs that are being trained stop, and can be resumed.
    signal.signal(signal.SIGTERM, _interrupt)
    at_once = at_once or described.at_once
    try:
        if search:
            searching = Runner(
                out,
                Path(described.config),
                prepared,
                "validation",
                launcher,
                trust=trust,
                threads=threads,
            )
            return _search(
                described,
                file,
                base,
                searching,
                only=only or [],
                at_once=at_once,
                keep_weights=not no_keep,
                data=data,
            )

        runner = Runner(
            out,
            Path(described.config),
            prepared,
            evaluated_on,
            launcher,
            keep_weights=not no_keep,
            trust=trust,
            threads=threads,
        )
        runner.check(runs)
        failures = runner.run_all(_runs_of_cells(runs, names, only), at_once)
    except KeyboardInterrupt:
        log.warning("interrupted: the same command resumes from here")
        return 1

    results = collect(out, runs, names, prepared, evaluated_on, failures)

    # The table contains the command that reproduces it.
    options: list[str] = []
    if data is not None:
        options += ["--data", data]
    if split:
        options += ["--split", split.value]
    about = About(
        name=described.name,
        split=evaluated_on,
        cells=names,
        seeds=described.seeds,
        metrics=described.metrics,
        reference=described.reference,
        command=shlex.join(["torchrec-priors", "experiment", str(file), *options]),
        data=(prepared.manifest.name, prepared.manifest.content_sha256),
    )

    folder = out / evaluated_on
    folder.mkdir(exist_ok=True)
    results.write(folder / "results.parquet")
    text = markdown(results, about)
    write_whole(folder / "results.md", text)
    print(f"{text}\nwritten to {folder}")
    return _exit_code(results)


def _search(
    described: ExperimentFile,
    file: Path,
    base: Mapping[str, Any],
    runner: Runner,
    *,
    data: str | None,
    **options: Any,
) -> int:
    """Runs the search, prints its table and the next command, and returns the exit code."""
    # Importing Optuna takes half a second, so it is imported only for a search.
    from torchrec_priors.experiment.search.search import search

    given = []
    if data is not None:
        given = ["--data", data]
    command = shlex.join(["torchrec-priors", "experiment", str(file), "--search", *given])
    text, code = search(
        described, base, runner, data=data or described.data, command=command, **options
    )
    print(text)
    return code


def _runs_of_cells(
    runs: list[PlannedRun], cells: list[str], only: list[str] | None
) -> list[PlannedRun]:
    """Returns the runs of the requested cells, with only the evaluations of these cells.

    Args:
        cells: the names of all cells.
        only: the names of the requested cells; all cells if empty or None.
    """
    for name in only or []:
        if name not in cells:
            raise UserError(f"--only: there is no cell '{name}': {nearest(name, cells)}")
    if not only:
        return runs

    # A run may belong to several cells, which evaluate it with different settings.
    restricted = [run.only(only) for run in runs]
    return [run for run in restricted if run.evaluations]


def _exit_code(results: Results) -> int:
    """Returns the exit code, and prints the names of failed cells to standard error."""
    failed = [
        f"{row['cell']} (seed {row['seed']})"
        for row in results.rows
        if row["error"] not in (None, NOT_RUN)
    ]
    if failed:
        log.error("failed: %s; the same command tries them again", ", ".join(failed))
    return 1 if failed else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    command.run(experiment, single_process=True)


if __name__ == "__main__":
    main()
