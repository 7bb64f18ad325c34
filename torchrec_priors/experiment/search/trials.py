"""Runs the trials of all cells in rounds; what is trained already is read: a search goes on where it stopped."""

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
from torchrec_priors.experiment.runner import Runner
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
        number: 0 is the cell as it stands.
        values: by dotted key; none for number 0.
        tried: the cell that is run.
    """

    cell: Cell
    number: int
    values: dict[str, Any]
    tried: Cell

    @classmethod
    def of(cls, cell: Cell, number: int, values: dict[str, Any]) -> "Trial":
        """Its runs are named after what the values are, not after when they were proposed: other trials, or another
        space, use again what is trained."""
        if not values:
            return cls(cell, number, values, cell)
        text = json.dumps({former_key(key): values[key] for key in values}, sort_keys=True)
        name = f"{cell.name} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return cls(cell, number, values, Cell(name, {**cell.changes, **values}, name))


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        score: mean of the metric over the seeds; None where there is none, and `error` says why.
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
            only: cells for which trials are run; of the others, those that are there count. All where it is empty.

        Raises:
            UserError: what is searched cannot be (see `spaces_of`).
        """
        assert file.search is not None
        self.settings = file.search
        self.only = set(only)
        self._base = base
        self._budget = flat(file.budget)
        self.cells = cells_of(file)
        spaces = spaces_of(file.search, self.cells, base, self._budget)
        self._proposals = {}
        self._like = {name: its.like for name, its in file.search.cells.items() if its.like}
        for cell in self.cells:
            if cell.name in self._like:
                continue
            space = spaces[cell.name]
            own = own_values(cell, space, base, self._budget)
            self._proposals[cell.name] = Proposals(space, own, cell.name, file.search.seed)
        self.trials: list[Trial] = []
        self.outcomes: list[Outcome] = []
        self._refused: dict[str, str] = {}  # by the tried cell's name

    def run(self, runner: Runner, at_once: int, *, keep_weights: bool = True) -> None:
        """Proposes, runs and scores, a round after the other, until every cell has its trials.

        Args:
            runner: of the validation split.
            at_once: runs at a time, upon which no result depends.
            keep_weights: False removes the checkpoints of all trials but the best of each cell, after each round.
        """
        assert runner.split == SPLIT
        active = {cell.name: cell for cell in self.cells if cell.name in self._proposals}
        for first in range(0, self.settings.trials, self.settings.batch):
            numbers = range(first, min(first + self.settings.batch, self.settings.trials))
            asked = self._ask(active, numbers)
            if not asked:
                return
            self.trials += asked
            runs = self.runs()
            runner.check(runs)
            wanted = [
                one.tried.name for one in asked if not self.only or one.cell.name in self.only
            ]
            log.info(
                "search: trials %d to %d of %d",
                numbers[0] + 1,
                numbers[-1] + 1,
                self.settings.trials,
            )
            failures = runner.run_all(
                [some for run in runs if (some := run.only(wanted)).evaluations], at_once
            )
            found = [self._outcome(one, runner, runs, failures) for one in asked]
            for outcome in found:
                self._proposals[outcome.trial.cell.name].tell(outcome.trial.number, outcome.score)
                if outcome.error == NOT_RUN:
                    active.pop(outcome.trial.cell.name, None)
            self.outcomes += found
            if not keep_weights:
                self._remove_weights(runner, runs)

    def runs(self) -> list[PlannedRun]:
        """Of all trials so far. Planned together, as those that differ in evaluation alone share a training, which is
        the first one's."""
        tried = {
            one.tried.name: one.tried for one in self.trials if one.tried.name not in self._refused
        }
        return plan(tried.values(), self.settings.seeds, self._base, self._budget)

    def best(self, cell: str) -> Outcome | None:
        """The trial of the highest score, the earliest of equal ones, be it that of the cell which this one is like;
        None where there is none."""
        searched = self._like.get(cell, cell)
        scored = [
            one
            for one in self.outcomes
            if one.trial.cell.name == searched and one.score is not None
        ]
        return max(scored, key=lambda one: one.score or 0.0, default=None)

    def _ask(self, active: Mapping[str, Cell], numbers: range) -> list[Trial]:
        """Those of each number together: all cells as they stand come first."""
        found = []
        for number in numbers:
            for cell in active.values():
                values = self._proposals[cell.name].ask()
                if values is not None:
                    one = Trial.of(cell, number, values)
                    found.append(one)
                    try:
                        plan([one.tried], self.settings.seeds, self._base, self._budget)
                    except UserError as error:
                        self._refused[one.tried.name] = str(error)
        return found

    def _outcome(
        self,
        trial: Trial,
        runner: Runner,
        runs: list[PlannedRun],
        failures: Mapping[tuple[str, int], str],
    ) -> Outcome:
        if trial.tried.name in self._refused:
            return Outcome(trial, None, 0.0, self._refused[trial.tried.name])
        scores = []
        seconds = 0.0
        for run in runs:
            for each in run.evaluations:
                if each.cell == trial.tried.name:
                    folder = RunFolder(run_folder(runner.out, run))
                    summary = summary_of(folder, run)
                    metrics = metrics_of(folder, run, each, SPLIT)
                    if summary is None or metrics is None:
                        return Outcome(
                            trial, None, seconds, failures.get((each.cell, each.seed), NOT_RUN)
                        )
                    score = metrics.get(self.settings.metric)
                    if score is None:
                        return Outcome(
                            trial, None, seconds, f"its evaluation has no '{self.settings.metric}'"
                        )
                    scores.append(score)
                    seconds += summary["seconds_of_last_start"] + metrics["seconds"]
        return Outcome(trial, float(np.mean(scores)), seconds, None)

    def _remove_weights(self, runner: Runner, runs: list[PlannedRun]) -> None:
        best = {one.trial.tried.name for cell in self.cells if (one := self.best(cell.name))}
        for run in runs:
            if not best & {each.cell for each in run.evaluations} and not runner.missing(run):
                shutil.rmtree(run_folder(runner.out, run) / "checkpoints", ignore_errors=True)
