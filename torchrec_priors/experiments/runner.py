"""Runs the missing parts of an experiment, several at a time.

If one part fails, the others continue.
"""

import logging
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from filelock import lock_descriptor

from torchrec_priors.errors import UserError
from torchrec_priors.experiments.finished import has_weights, metrics_of, summary_of
from torchrec_priors.experiments.heartbeat import Running, heartbeat
from torchrec_priors.experiments.plan import Evaluation, PlannedRun, run_folder
from torchrec_priors.experiments.processes import Launcher
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.same_run import check_same_run
from torchrec_priors.training.summary import SELECTED_BY

log = logging.getLogger(__name__)

Failures = Mapping[tuple[str, int], str]  # (cell, seed) -> the last line of the error


class Runner:
    """Trains and evaluates planned runs in their folders, and resumes an interrupted experiment."""

    def __init__(
        self,
        out: Path,
        base: Path,
        data: PreparedData,
        split: str,
        launcher: Launcher,
        *,
        keep_weights: bool = True,
        trust: bool = False,
        threads: int | None = None,
    ) -> None:
        """
        Args:
            out: the folder of the experiment.
            base: the file of the base configuration.
            data: the data set that is trained and evaluated on.
            split: the split that is evaluated.
            launcher: starts the training runs and evaluations.
            keep_weights: False removes a run's checkpoints once it is evaluated.
            trust: whether custom code that came with a run may be executed.
            threads: the most threads with which each process computes; None for those of the
                launcher.
        """
        self.out = out
        self.base = base
        self.data = data
        self.split = split
        self.launcher = launcher
        self.keep_weights = keep_weights
        # Options of both apps, `train` and `evaluate`.
        self._options: dict[str, object] = {"trust": trust, "threads": threads}
        self._logs = out / "logs"
        self._running: dict[str, Running] = {}

    def check(self, runs: list[PlannedRun]) -> None:
        """Raises UserError if a folder has a run of another configuration or of other data."""
        for run in runs:
            try:
                check_same_run(self._folder(run), run.config, self.data)
            except UserError as error:
                raise UserError(
                    f"{error}, for --out, or remove it to train '{run.name}' again"
                ) from error

    def missing(self, run: PlannedRun) -> list[Evaluation]:
        """Returns the evaluations of a run that are not finished."""
        folder = self._folder(run)
        return [
            evaluation
            for evaluation in run.evaluations
            if metrics_of(folder, run, evaluation, self.split) is None
        ]

    def run_all(self, runs: list[PlannedRun], at_once: int) -> Failures:
        """Runs what is missing. If it is interrupted, it ends the processes that it started."""
        self._logs.mkdir(parents=True, exist_ok=True)
        # The files say what is missing, so the same command resumes after any interruption.
        todo = [run for run in runs if self.missing(run)]
        finished = len(runs) - len(todo)
        log.info(
            "%d runs: %d done, %d to do, %d at a time; their output: %s",
            len(runs),
            finished,
            len(todo),
            at_once,
            self._logs,
        )

        failures: dict[tuple[str, int], str] = {}
        started = time.monotonic()
        with heartbeat(self._now_running), ThreadPoolExecutor(at_once) as pool:
            waiting = {pool.submit(self._run, run): run for run in todo}
            try:
                for done, future in enumerate(as_completed(waiting), 1):
                    failures.update(future.result())
                    # The time since the start includes the effect of several runs at a time.
                    seconds_a_run = (time.monotonic() - started) / done
                    left = seconds_a_run * (len(todo) - done)
                    self._log_progress(waiting[future], finished + done, len(runs), left)
            except BaseException:
                # Waiting runs are not started. Started ones are ended, as the pool waits for them.
                pool.shutdown(wait=False, cancel_futures=True)
                self.launcher.stop()
                raise
        return failures

    def _run(self, run: PlannedRun) -> dict[tuple[str, int], str]:
        """Trains a run and makes its evaluations; returns the failures."""
        folder = self._folder(run)
        self._running[run.name] = Running(run.name, folder.metrics, run.config.training.steps)
        try:
            return self._train_and_evaluate(run, folder)
        finally:
            del self._running[run.name]

    def _now_running(self) -> list[Running]:
        # The copy is made at once, while other threads add and remove runs.
        return list(self._running.copy().values())

    def _train_and_evaluate(self, run: PlannedRun, folder: RunFolder) -> dict[tuple[str, int], str]:
        output = self._logs / f"{run.name}.log"
        missing = self.missing(run)

        # If the training has failed, so have all its evaluations.
        error = self._train(run, folder, output)
        if error is not None:
            return {(evaluation.cell, evaluation.seed): error for evaluation in missing}

        failures = {}
        for evaluation in missing:
            options = {
                "run": folder.path,
                "split": self.split,
                "data": self.data.folder,
                "name": evaluation.name,
                **self._options,
            }
            error = self.launcher.run("evaluate", options, evaluation.overrides, output)
            if error is not None:
                failures[evaluation.cell, evaluation.seed] = error

        # A failed evaluation is tried again later and then needs the weights.
        if not failures and not self.keep_weights:
            shutil.rmtree(folder.checkpoints)
        return failures

    def _train(self, run: PlannedRun, folder: RunFolder, output: Path) -> str | None:
        """Trains a run if its best weights are missing; returns the last line of an error."""
        summary = summary_of(folder, run)
        if summary is not None and has_weights(folder, summary):
            return None

        options = {
            "config": self.base,
            "data": self.data.folder,
            "run": folder.path,
            **self._options,
        }
        # A training that was stopped resumes from its last checkpoint.
        error = self.launcher.run("train", options, run.overrides, output)

        # `train` reads the base configuration again, and the file may have been edited meanwhile.
        if error is None and summary_of(folder, run) is None:
            return f"train left no summary of this configuration: has '{self.base}' changed?"
        return error

    def _log_progress(self, run: PlannedRun, done: int, of: int, left: float) -> None:
        """Logs the result of a run.

        Args:
            done: the number of finished runs.
            of: the number of all runs.
            left: the estimated seconds until all runs are finished.
        """
        summary = summary_of(self._folder(run), run)
        if summary is None:
            text = "failed"
        else:
            text = f"validation {SELECTED_BY} {summary[f'validation/{SELECTED_BY}']:.4f}"
            missing = len(self.missing(run))
            if missing:
                text += f", {missing} of {len(run.evaluations)} evaluations failed"
        if done < of:
            text += f"; about {_minutes(left)} left"
        log.info("[%d/%d] %s: %s", done, of, run.name, text)

    def _folder(self, run: PlannedRun) -> RunFolder:
        return RunFolder(run_folder(self.out, run))


def lock(out: Path) -> int:
    """Locks the experiment's folder until this process and all that inherit the lock have ended.

    Returns:
        the file descriptor that holds the lock.

    Raises:
        UserError: another experiment holds the lock.
    """
    out.mkdir(parents=True, exist_ok=True)

    # Processes inherit the lock, so a training that outlives a killed experiment keeps it.
    # Following a link could lock (and create) a file elsewhere.
    descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    if not lock_descriptor(descriptor, blocking=False):
        os.close(descriptor)
        raise UserError(
            f"--out: '{out}' is in use by another experiment, or by a training that a killed "
            "experiment has left running: wait, or end it"
        )
    return descriptor


def _minutes(seconds: float) -> str:
    """Writes a time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
