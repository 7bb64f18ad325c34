"""Trains, evaluates and compares a matrix of configurations: `tp.experiment`, and the app."""

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from torchrec_priors.common.files import write_whole
from torchrec_priors.common.progress import shown_messages
from torchrec_priors.config import read_toml
from torchrec_priors.data.histories import Split
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.experiments.file import ExperimentFile, experiment_of, read_experiment
from torchrec_priors.experiments.matrix import cells_of, flat
from torchrec_priors.experiments.plan import PlannedRun, plan
from torchrec_priors.experiments.processes import InPlace, Launcher, OnScheduler
from torchrec_priors.experiments.results import NOT_RUN, Results, collect
from torchrec_priors.experiments.results_table import About, markdown
from torchrec_priors.experiments.runner import Runner, lock
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.remote.uri import Place
from torchrec_priors.settings.shipped import find_experiment

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)

# The name of an experiment that a Python program describes without a name.
_UNNAMED = Path("experiment.toml")


@dataclass(frozen=True)
class Experiment:
    """What came out of an experiment or a search.

    Attributes:
        folder: the folder of the results: `results.parquet` and `results.md`.
        text: the table of the results in Markdown; after a search, with the next command.
        failed: the cells and seeds that failed. The same call tries them again.
        results: the results, with the intervals of differences; None after a search.
    """

    folder: Path
    text: str
    failed: list[str] = field(default_factory=list)
    results: Results | None = None

    def to_arrow(self) -> pa.Table:
        """Returns a table with a row for each cell and seed, or for each trial of a search."""
        from torchrec_priors.parquet import read_table

        return read_table(self.folder / "results.parquet")

    def to_pandas(self) -> "pandas.DataFrame":
        """Returns the table as a data frame of pandas, which must be installed."""
        return self.to_arrow().to_pandas()

    def _repr_markdown_(self) -> str:
        """Returns what a notebook shows."""
        return self.text

    def __repr__(self) -> str:
        return self.text


def experiment(
    described: Path | str | Mapping[str, Any],
    data: PreparedData | Path | str | None = None,
    out: Path | str | None = None,
    *,
    split: Split | None = None,
    at_once: int | None = None,
    only: Sequence[str] = (),
    scheduler: str | None = None,
    ranks: str = "1x1",
    keep: bool = True,
    trust: bool = False,
    threads: int | None = None,
    search: bool = False,
    progress: bool = True,
) -> Experiment:
    """Runs the missing runs of an experiment, and compares all results.

    Each run is a process with one thread. An interrupt ends the running processes; the same call
    resumes the experiment.

    Args:
        described: the TOML file of the experiment, the name of one that comes with the project, or
            what such a file contains, as nested dictionaries.
        data: the prepared data set; by default the one that the file names.
        out: the folder for the runs and the results; by default `experiments/<name>`.
        split: the split to evaluate on; by default that of the file.
        at_once: the number of runs at the same time; by default that of the file.
        only: the names of the only cells to run.
        scheduler: the TorchX scheduler to run on, such as "local_cwd".
        ranks: with a scheduler, nodes x processes per node for each run.
        keep: whether the checkpoints of evaluated runs are kept.
        trust: whether to execute custom code that came with a run.
        threads: the most threads with which each process computes; by default 1, or with a
            scheduler its cores / processes.
        search: whether to search for better settings instead, as the file's `[search]` says.
        progress: whether the progress is printed to standard error.

    Raises:
        UserError: the description is wrong, or a folder has other runs.
        KeyboardInterrupt: it was interrupted.
    """
    asked, file = _read(described)
    if search:
        _check_search(asked, file, split)
    if ranks != "1x1" and scheduler is None:
        raise UserError("-j needs --scheduler: without a scheduler, every run is a single process")
    if data is None and not asked.data:
        raise UserError(f"{file} names no data set: give --data, or `data` in the file")

    prepared = data if isinstance(data, PreparedData) else PreparedData(str(data or asked.data))
    evaluated_on = split or asked.split
    folder = Path(out) if out is not None else Path("experiments") / asked.name
    try:
        cells = cells_of(asked)
        base = read_toml(Path(asked.config), "config")
        runs = plan(cells, asked.seeds, base, flat(asked.budget))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    names = [cell.name for cell in cells]
    command = _command(file, None if data is None else prepared.folder, split, search=search)

    # Child processes inherit the lock. So if this process is killed, the folder stays locked until
    # the child processes have ended.
    held = lock(folder)
    try:
        with shown_messages(progress):
            launcher: Launcher = InPlace([held])
            if scheduler is not None:
                launcher = OnScheduler(scheduler, ranks, folder / "logs")
            runner = Runner(
                folder,
                Path(asked.config),
                prepared,
                "validation" if search else evaluated_on,
                launcher,
                keep_weights=keep or search,
                trust=trust,
                threads=threads,
            )
            at_once = at_once or asked.at_once
            if search:
                # Importing Optuna takes half a second, so it is imported only for a search.
                from torchrec_priors.experiments.search.search import search as run_search

                text, lacking = run_search(
                    asked,
                    base,
                    runner,
                    only=only,
                    at_once=at_once,
                    keep_weights=keep,
                    data=str(prepared.folder) if data is not None else asked.data,
                    command=command,
                )
                return Experiment(folder / "search", text, lacking)

            runner.check(runs)
            failures = runner.run_all(_runs_of_cells(runs, names, only), at_once)
            results = collect(folder, runs, names, prepared, evaluated_on, failures)
    finally:
        os.close(held)

    about = About(
        name=asked.name,
        split=evaluated_on,
        cells=names,
        seeds=asked.seeds,
        metrics=asked.metrics,
        reference=asked.reference,
        command=command,
        data=(prepared.manifest.name, prepared.manifest.content_sha256),
    )
    return _write(results, about, folder / evaluated_on)


def _check_search(asked: ExperimentFile, file: Path, split: Split | None) -> None:
    """Raises UserError if an experiment cannot search for better settings."""
    if asked.search is None:
        raise UserError(f"--search: {file} has no section [search]")
    if split == "test":
        raise UserError(
            "--search: values are chosen only on validation: leave out --split test, and give it "
            "to best.toml"
        )


def _command(file: Path, data: Place | None, split: Split | None, *, search: bool) -> str:
    """Returns the command that reproduces the table.

    Args:
        file: the file of the experiment.
        data: the data set, if the file does not name it.
        split: the split that was asked for.
        search: whether better settings were searched for.
    """
    words = ["torchrec-priors", "experiment", str(file)]
    if search:
        words.append("--search")
    if data is not None:
        words += ["--data", str(data)]
    if split and not search:
        words += ["--split", split]
    return shlex.join(words)


def _write(results: Results, about: About, folder: Path) -> Experiment:
    """Writes the results and their table into a folder."""
    folder.mkdir(exist_ok=True)
    results.write(folder / "results.parquet")
    text = markdown(results, about)
    write_whole(folder / "results.md", text)
    return Experiment(folder, text, _failed(results), results)


def _read(described: Path | str | Mapping[str, Any]) -> tuple[ExperimentFile, Path]:
    """Returns an experiment, and its file or what stands for it in messages."""
    if isinstance(described, Mapping):
        name = described.get("name")
        file = Path(f"{name}.toml") if isinstance(name, str) else _UNNAMED
        return experiment_of(described, file), file
    file = find_experiment(described, "FILE")
    return read_experiment(file), file


def _runs_of_cells(
    runs: list[PlannedRun], cells: list[str], only: Sequence[str]
) -> list[PlannedRun]:
    """Returns the runs of the requested cells, with only the evaluations of these cells.

    Args:
        cells: the names of all cells.
        only: the names of the requested cells; all cells if empty.
    """
    for name in only:
        if name not in cells:
            raise UserError(f"--only: there is no cell '{name}': {nearest(name, cells)}")
    if not only:
        return runs

    # A run may belong to several cells, which evaluate it with different settings.
    restricted = [run.only(list(only)) for run in runs]
    return [run for run in restricted if run.evaluations]


def _failed(results: Results) -> list[str]:
    """Returns the names of failed cells with their seeds, and logs them."""
    failed = [
        f"{row['cell']} (seed {row['seed']})"
        for row in results.rows
        if row["error"] not in (None, NOT_RUN)
    ]
    if failed:
        log.error("failed: %s; the same command tries them again", ", ".join(failed))
    return failed
