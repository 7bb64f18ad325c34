"""Runs the trials of all cells in rounds; trained trials are read, so a search is resumed."""

import hashlib
import json
import logging
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchrec_priors.errors import UserError
from torchrec_priors.experiment.file import ExperimentFile
from torchrec_priors.experiment.finished import metrics_of, summary_of
from torchrec_priors.experiment.matrix import Cell, cells_of, flat
from torchrec_priors.experiment.plan import PlannedRun, plan, run_folder
from torchrec_priors.experiment.results import NOT_RUN
from torchrec_priors.experiment.runner import Failures, Runner
from torchrec_priors.experiment.search.proposals import Proposals
from torchrec_priors.experiment.search.space import own_values, spaces_of
from torchrec_priors.settings.former_keys import former_key
from torchrec_priors.training.run.folder import RunFolder

log = logging.getLogger(__name__)

SPLIT = "validation"


@dataclass(frozen=True)
class Trial:
    """A cell with values of its space.

    Attributes:
        number: 0 is the cell without changes.
        values: by dotted key; empty for number 0.
        tried: the cell that is run.
    """

    cell: Cell
    number: int
    values: dict[str, Any]
    tried: Cell

    @classmethod
    def of(cls, cell: Cell, number: int, values: dict[str, Any]) -> "Trial":
        """The trial of some values.

        Its runs are named after the values, not after when they were proposed: other trials, or
        another space, use the trained runs again.
        """
        if not values:
            return cls(cell, number, values, cell)
        # By the former names of keys, so that trials of earlier releases are found.
        text = json.dumps({former_key(key): values[key] for key in values}, sort_keys=True)
        name = f"{cell.name} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return cls(cell, number, values, Cell(name, {**cell.changes, **values}, name))


@dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Attributes:
        score: mean of the metric over the seeds; None without one, and `error` says why.
        seconds: of its trainings (of each, the last start) and evaluations.
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
            base: values of the base configuration, as TOML gives them.
            only: cells for which trials are run; those of the others count if they are finished.
                All if it is empty.

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
        self._invalid: dict[str, str] = {}  # error by name of the tried cell
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
        """Proposes, runs and scores, round by round, until every cell has its trials.

        Args:
            runner: of the validation split.
            at_once: runs at a time, on which no result depends.
            keep_weights: False removes the checkpoints of all trials but the best of each cell,
                after each round.
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
            # Before anything is trained: a folder may have a run of another experiment.
            runner.check(runs)

            log.info(
                "search: trials %d to %d of %d", numbers[0] + 1, numbers[-1] + 1, settings.trials
            )
            failures = runner.run_all(self._wanted(proposed, runs), at_once)

            outcomes = [self._outcome(trial, runner, runs, failures) for trial in proposed]
            for outcome in outcomes:
                cell = outcome.trial.cell.name
                self._proposals[cell].tell(outcome.trial.number, outcome.score)
                # Without a score of this round, proposals of the next would be others than they
                # will be once it is run.
                if outcome.error == NOT_RUN:
                    active.pop(cell, None)
            self.outcomes += outcomes

            # After each round, as a search may have more trials than the disk has room for.
            if not keep_weights:
                self._remove_weights(runner, runs)

    def runs(self) -> list[PlannedRun]:
        """The runs of all trials so far.

        They are planned together: trials that differ in evaluation only share a training, which is
        the first one's.
        """
        tried = {
            trial.tried.name: trial.tried
            for trial in self.trials
            if trial.tried.name not in self._invalid
        }
        return plan(tried.values(), self.settings.seeds, self._base, self._budget)

    def best(self, cell: str) -> Outcome | None:
        """The trial of the highest score, the earliest of equal ones; None without a score.

        A cell that takes the values of another one has the other's best trial.
        """
        searched = self._like.get(cell, cell)
        scored = [
            outcome
            for outcome in self.outcomes
            if outcome.trial.cell.name == searched and outcome.score is not None
        ]
        return max(scored, key=lambda outcome: outcome.score or 0.0, default=None)

    def _propose(self, active: Mapping[str, Cell], numbers: range) -> list[Trial]:
        """The trials of some numbers, those of each number together: unchanged cells come first."""
        trials = []
        for number in numbers:
            for cell in active.values():
                values = self._proposals[cell.name].ask()
                if values is None:
                    continue

                trial = Trial.of(cell, number, values)
                trials.append(trial)
                # Only its corners were checked before: such a trial fails without being run.
                try:
                    plan([trial.tried], self.settings.seeds, self._base, self._budget)
                except UserError as error:
                    self._invalid[trial.tried.name] = str(error)
        return trials

    def _wanted(self, proposed: list[Trial], runs: list[PlannedRun]) -> list[PlannedRun]:
        """The runs of the proposed trials of cells that are run."""
        names = [
            trial.tried.name for trial in proposed if not self.only or trial.cell.name in self.only
        ]
        parts = [run.only(names) for run in runs]
        return [part for part in parts if part.evaluations]

    def _outcome(
        self, trial: Trial, runner: Runner, runs: list[PlannedRun], failures: Failures
    ) -> Outcome:
        """The mean score of a trial over its seeds, or why it has none."""
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
        outcomes = [self.best(cell.name) for cell in self.cells]
        best = {outcome.trial.tried.name for outcome in outcomes if outcome}
        for run in runs:
            cells = {evaluation.cell for evaluation in run.evaluations}
            # What still has to be evaluated needs its weights.
            if not best & cells and not runner.missing(run):
                shutil.rmtree(run_folder(runner.out, run) / "checkpoints", ignore_errors=True)
