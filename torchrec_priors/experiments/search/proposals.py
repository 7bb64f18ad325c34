"""Proposes the next values to try for a cell, from the scores of earlier trials.

The sampler is Optuna's tree-structured Parzen estimator.
"""

import itertools
import json
import logging
import random
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from torchrec_priors.experiments.search.space import Between, OneOf, Space

_AT_RANDOM = 6  # trials before the sampler uses scores
_TRIES = 8  # repeated proposals in a row, after which untried values are drawn
_DRAWN_FROM = 4096  # the most untried values that are listed for this draw

logging.getLogger("optuna").setLevel(logging.WARNING)


class Proposals:
    """Proposes values for one cell, and never the same values twice.

    Proposals depend only on the space (see `space.py`), the seed, and the order of proposals and
    scores. So a search that is resumed makes the same proposals again.
    """

    def __init__(self, space: Space, own: dict[str, Any] | None, cell: str, seed: int) -> None:
        """
        Args:
            space: the values to choose from.
            own: the values of the cell without changes; None if they are not in the space.
            cell: the name of the cell.
            seed: the seed of the proposals.
        """
        self._space = space
        self._own = own
        self._random = random.Random(f"{seed}/{cell}")

        # The seed is a checksum, because hash() differs between processes.
        sampler = optuna.samplers.TPESampler(
            seed=zlib.crc32(f"{seed}/{cell}".encode()),
            n_startup_trials=_AT_RANDOM,
            constant_liar=True,  # proposals keep a distance from trials that have no score yet
        )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._distributions = {key: _distribution(values) for key, values in space.items()}

        self._proposed: list[optuna.Trial | None] = []
        self._seen: set[str] = set()

    def ask(self) -> dict[str, Any] | None:
        """Proposes the next values.

        Returns:
            key -> value, empty for the first proposal (the cell without changes); None if all
            values were tried.
        """
        # The cell without changes is always tried, so the best trial is never worse than the cell.
        if not self._proposed:
            self._proposed.append(None if self._own is None else self._enqueue(self._own))
            return {}

        untried = list(itertools.islice(self._untried(), _DRAWN_FROM))
        if not untried and _is_finite(self._space):
            return None

        # In an infinite space, the sampler is asked until it proposes new values.
        for _ in range(_TRIES if untried else sys.maxsize):
            trial = self._study.ask(self._distributions)
            values = {key: _value(self._space[key], trial.params[key]) for key in self._space}
            if _text(values) not in self._seen:
                self._seen.add(_text(values))
                self._proposed.append(trial)
                return values
            self._study.tell(trial, state=TrialState.FAIL)  # the sampler ignores failed trials

        values = self._random.choice(untried)
        self._proposed.append(self._enqueue(values))
        return values

    def tell(self, number: int, score: float | None) -> None:
        """Records the score of a trial.

        Args:
            number: the index of the trial, from 0.
            score: the score; None if the trial failed, which counts as worse than any score.
        """
        trial = self._proposed[number]
        if trial is None:
            return
        # Optuna's sampler takes pruned trials into account, but not failed ones.
        if score is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, score)

    def _untried(self) -> Iterator[dict[str, Any]]:
        """Yields all values of a finite space that were not proposed yet."""
        return (values for values in _all(self._space) if _text(values) not in self._seen)

    def _enqueue(self, values: dict[str, Any]) -> optuna.Trial:
        """Makes a trial of values that the sampler has not proposed."""
        self._seen.add(_text(values))
        self._study.enqueue_trial(
            {key: _parameter(self._space[key], value) for key, value in values.items()}
        )
        return self._study.ask(self._distributions)


def _distribution(values: OneOf | Between) -> BaseDistribution:
    """Returns Optuna's distribution for some values.

    For a list, the sampler draws a position: a whole number if the values ascend, else a category.
    """
    if isinstance(values, OneOf):
        count = len(values.values)
        if values.ordered:
            return IntDistribution(0, count - 1)
        return CategoricalDistribution(range(count))
    kind = IntDistribution if values.whole else FloatDistribution
    return kind(values.low, values.high, log=values.log)


def _value(values: OneOf | Between, parameter: Any) -> Any:
    """Returns the value for the sampler's parameter, which is a position if there is a list."""
    if isinstance(values, OneOf):
        return values.values[parameter]
    return values.rounded(parameter)


def _parameter(values: OneOf | Between, value: Any) -> Any:
    """Returns the sampler's parameter for a value, the inverse of `_value`."""
    if isinstance(values, OneOf):
        return values.values.index(value)
    return value


def _all(space: Space) -> Iterator[dict[str, Any]]:
    """Yields all combinations of values of a finite space; nothing if the space is infinite."""
    if not _is_finite(space):
        return
    choices: list[Sequence[Any]] = []
    for values in space.values():
        if isinstance(values, OneOf):
            choices.append(values.values)
        else:
            choices.append(range(int(values.low), int(values.high) + 1))
    for chosen in itertools.product(*choices):
        yield dict(zip(space, chosen, strict=True))


def _is_finite(space: Space) -> bool:
    """Whether the space consists of lists and ranges of whole numbers."""
    return all(isinstance(values, OneOf) or values.whole for values in space.values())


def _text(values: dict[str, Any]) -> str:
    """Returns values as text, which can be in a set."""
    return json.dumps(values, sort_keys=True)
