"""Runs the trials of all cells in rounds. Finished trials are read from their files.

In a round, each cell gets a batch of trials, which are proposed before any of them is scored.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchrec_priors.errors import UserError
from torchrec_priors.experiments.file import ExperimentFile
from torchrec_priors.experiments.finished import metrics_of, summary_of
from torchrec_priors.experiments.matrix import Cell, cells_of, flat
from torchrec_priors.experiments.plan import PlannedRun, plan, run_folder
from torchrec_priors.experiments.results import NOT_RUN
from torchrec_priors.experiments.runner import Failures, Runner
from torchrec_priors.experiments.search.proposals import Proposals
from torchrec_priors.experiments.search.space import own_values, spaces_of
from torchrec_priors.settings.former_keys import former_key
from torchrec_priors.training.run.folder import RunFolder

log = logging.getLogger(__name__)

SPLIT = "validation"


@dataclass(frozen=True)
class Trial:
    """A cell in which the settings of its space (`space.py`) have proposed values.

    Attributes:
        cell: the cell of the experiment, without changes.
        number: the index of the trial; 0 is the cell without changes.
        values: dotted key -> value; empty for number 0.
        tried: the cell that is run, with these values.
    """

    cell: Cell
    number: int
    values: dict[str, Any]
    tried: Cell

    @classmethod
    def of(cls, cell: Cell, number: int, values: dict[str, Any]) -> "Trial":
        """Makes the trial of some values.

        Its runs are named after the values and not after the trial's number. So a trial with
        another number, or of another space, reuses the trained runs.
        """
        if not values:
            return cls(cell, number, values, cell)
        # Names use the former names of keys, so that trials of earlier releases are found.
        text = json.dumps({former_key(key): values[key] for key in values}, sort_keys=True)
        name = f"{cell.name} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return cls(cell, number, values, Cell(name, {**cell.changes, **values}, name))


@dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Attributes:
        score: the mean of the metric over the seeds; None if there is an `error`.
        seconds: the time of its training runs and evaluations. A run that was resumed counts from
            its last start.
        error: the reason why there is no score.
    """

    trial: Trial
    score: float | None
    seconds: float
    error: str | None


class Search:
    """The trials of an experiment's cells."""

    def __init__(
        self, file: ExperimentFile, base: Mapping[str, Any], only: Collection[str] = ()
    ) -> None:
        """
        Args:
            file: the experiment.
            base: the values of the base configuration, as read from TOML.
            only: the cells for which trials are run; all cells if it is empty. Trials of the other
                cells are used if they are finished.

        Raises:
            UserError: the space is invalid (see `spaces_of`).
        """
        assert file.search is not None
        self.settings = file.search
        self.only = set(only)
        self.cells = cells_of(file)
        self.trials: list[Trial] = []
        self.outcomes: list[Outcome] = []
        self._base = base
        self._budget = flat(file.budget)
        self._invalid: dict[str, str] = {}  # name of the tried cell -> error
        self._like = {name: cell.like for name, cell in file.search.cells.items() if cell.like}

        # A cell that takes the values of another one has no space.
        spaces = spaces_of(file.search, self.cells, base, self._budget)
        self._proposals = {}
        for cell in self.cells:
            if cell.name in spaces:
                space = spaces[cell.name]
                own = own_values(cell, space, base, self._budget)
                self._proposals[cell.name] = Proposals(space, own, cell.name, file.search.seed)

    def run(self, runner: Runner, at_once: int, *, keep_weights: bool = True) -> None:
        """Proposes, runs and scores trials in rounds, until every cell has all its trials.

        Args:
            runner: runs the trials, on the validation split.
            at_once: the number of runs at a time; the results do not depend on it.
            keep_weights: False removes, after each round, all checkpoints except those of the best
                trial of each cell.
        """
        assert runner.split == SPLIT
        settings = self.settings
        active = {cell.name: cell for cell in self.cells if cell.name in self._proposals}
        for first in range(0, settings.trials, settings.batch):
            numbers = range(first, min(first + settings.batch, settings.trials))
            proposed = self._propose(active, numbers)
            if not proposed:
                return
            self.trials += proposed
            runs = self.runs()
            # A folder may contain a run of another experiment, which is rejected before training.
            runner.check(runs)

            log.info(
                "search: trials %d to %d of %d", numbers[0] + 1, numbers[-1] + 1, settings.trials
            )
            failures = runner.run_all(self._wanted(proposed, runs), at_once)

            outcomes = [self._outcome(trial, runner, runs, failures) for trial in proposed]
            for outcome in outcomes:
                cell = outcome.trial.cell.name
                self._proposals[cell].tell(outcome.trial.number, outcome.score)
                # The next proposals depend on this score, so the cell has to wait for it.
                if outcome.error == NOT_RUN:
                    active.pop(cell, None)
            self.outcomes += outcomes

            # The disk may not have room for all trials, so this is done after each round.
            if not keep_weights:
                self._remove_weights(runner, runs)

    def runs(self) -> list[PlannedRun]:
        """Returns the runs of all trials so far.

        They are planned together, so trials that differ only in the evaluation share the training
        of the first one.
        """
        tried = {
            trial.tried.name: trial.tried
            for trial in self.trials
            if trial.tried.name not in self._invalid
        }
        return plan(tried.values(), self.settings.seeds, self._base, self._budget)

    def best(self, cell: str) -> Outcome | None:
        """Returns a cell's trial with the highest score; None if no trial has a score.

        Of equal trials, the earliest is the best. A cell that takes the values of another cell has
        the best trial of that cell.
        """
        searched = self._like.get(cell, cell)
        scored = [
            outcome
            for outcome in self.outcomes
            if outcome.trial.cell.name == searched and outcome.score is not None
        ]
        return max(scored, key=lambda outcome: outcome.score or 0.0, default=None)

    def _propose(self, active: Mapping[str, Cell], numbers: range) -> list[Trial]:
        """Proposes trials: for each of the numbers in turn, one trial of every cell."""
        trials = []
        for number in numbers:
            for cell in active.values():
                values = self._proposals[cell.name].ask()
                if values is None:
                    continue

                trial = Trial.of(cell, number, values)
                trials.append(trial)
                # Not all combinations of values were checked before. An invalid one is not run.
                try:
                    plan([trial.tried], self.settings.seeds, self._base, self._budget)
                except UserError as error:
                    self._invalid[trial.tried.name] = str(error)
        return trials

    def _wanted(self, proposed: list[Trial], runs: list[PlannedRun]) -> list[PlannedRun]:
        """Returns the runs of the proposed trials, without the cells that `only` leaves out."""
        names = [
            trial.tried.name for trial in proposed if not self.only or trial.cell.name in self.only
        ]
        parts = [run.only(names) for run in runs]
        return [part for part in parts if part.evaluations]

    def _outcome(
        self, trial: Trial, runner: Runner, runs: list[PlannedRun], failures: Failures
    ) -> Outcome:
        """Returns the mean score of a trial over its seeds, or the reason why it has none."""
        name = trial.tried.name
        if name in self._invalid:
            return Outcome(trial, None, 0.0, self._invalid[name])

        scores = []
        seconds = 0.0
        evaluations = [
            (run, evaluation)
            for run in runs
            for evaluation in run.evaluations
            if evaluation.cell == name
        ]
        for run, evaluation in evaluations:
            folder = RunFolder(run_folder(runner.out, run))
            summary = summary_of(folder, run)
            metrics = metrics_of(folder, run, evaluation, SPLIT)
            if summary is None or metrics is None:
                error = failures.get((evaluation.cell, evaluation.seed), NOT_RUN)
                return Outcome(trial, None, seconds, error)
            score = metrics.get(self.settings.metric)
            if score is None:
                error = f"its evaluation has no '{self.settings.metric}'"
                return Outcome(trial, None, seconds, error)
            scores.append(score)
            seconds += summary["seconds_of_last_start"] + metrics["seconds"]
        return Outcome(trial, float(np.mean(scores)), seconds, None)

    def _remove_weights(self, runner: Runner, runs: list[PlannedRun]) -> None:
        """Removes the checkpoints of evaluated runs that no best trial uses."""
        outcomes = [self.best(cell.name) for cell in self.cells]
        best = {outcome.trial.tried.name for outcome in outcomes if outcome}
        for run in runs:
            cells = {evaluation.cell for evaluation in run.evaluations}
            # A run that is not evaluated yet still needs its weights.
            if not best & cells and not runner.missing(run):
                shutil.rmtree(run_folder(runner.out, run) / "checkpoints", ignore_errors=True)
