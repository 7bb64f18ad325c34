"""Values to try next for one cell, from the scores of earlier trials.

They are proposed by Optuna's tree-structured Parzen estimator.
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

from torchrec_priors.experiment.search.space import Between, OneOf, Space

_AT_RANDOM = 6  # trials, before scores decide
_TRIES = 8  # proposals in a row of what was tried before, until another is drawn
_DRAWN_FROM = 4096  # values that were not tried, at most

logging.getLogger("optuna").setLevel(logging.WARNING)


class Proposals:
    """Proposes values for one cell, never the same twice.

    Proposals are a function of the space, the seed, and which scores came between which proposals:
    a search that is resumed proposes the same again.
    """

    def __init__(self, space: Space, own: dict[str, Any] | None, cell: str, seed: int) -> None:
        """
        Args:
            own: the cell's values without changes; None if they are not in the space.
        """
        self._space = space
        self._own = own
        self._random = random.Random(f"{seed}/{cell}")

        # The seed is a checksum, as hash() differs from process to process.
        sampler = optuna.samplers.TPESampler(
            seed=zlib.crc32(f"{seed}/{cell}".encode()),
            n_startup_trials=_AT_RANDOM,
            constant_liar=True,  # trials of a batch, which have no score yet, keep others away
        )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._distributions = {key: _distribution(values) for key, values in space.items()}

        self._proposed: list[optuna.Trial | None] = []
        self._seen: set[str] = set()

    def ask(self) -> dict[str, Any] | None:
        """The next values by key; None if all were tried.

        The first are empty: the cell without changes.
        """
        # The cell without changes is always tried, so the best is never worse than it.
        if not self._proposed:
            self._proposed.append(None if self._own is None else self._enqueue(self._own))
            return {}

        untried = list(itertools.islice(self._untried(), _DRAWN_FROM))
        if not untried and _is_finite(self._space):
            return None

        # In a space without end, only the sampler can propose: it is asked until it has new values.
        for _ in range(_TRIES if untried else sys.maxsize):
            trial = self._study.ask(self._distributions)
            values = {key: _value(self._space[key], trial.params[key]) for key in self._space}
            if _text(values) not in self._seen:
                self._seen.add(_text(values))
                self._proposed.append(trial)
                return values
            self._study.tell(trial, state=TrialState.FAIL)  # which the sampler ignores

        values = self._random.choice(untried)
        self._proposed.append(self._enqueue(values))
        return values

    def tell(self, number: int, score: float | None) -> None:
        """Takes the score of a trial.

        Args:
            number: of the trial, from 0.
            score: None if it failed, which counts as worse than any score.
        """
        trial = self._proposed[number]
        if trial is None:
            return
        # Pruned trials count in Optuna's sampler, failed ones do not.
        if score is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, score)

    def _untried(self) -> Iterator[dict[str, Any]]:
        return (values for values in _all(self._space) if _text(values) not in self._seen)

    def _enqueue(self, values: dict[str, Any]) -> optuna.Trial:
        """A trial of values that the sampler has not proposed."""
        self._seen.add(_text(values))
        self._study.enqueue_trial(
            {key: _parameter(self._space[key], value) for key, value in values.items()}
        )
        return self._study.ask(self._distributions)


def _distribution(values: OneOf | Between) -> BaseDistribution:
    """Optuna's distribution.

    Lists are given as positions: of rising numbers as whole numbers, of others as categories.
    """
    if isinstance(values, OneOf):
        count = len(values.values)
        if values.ordered:
            return IntDistribution(0, count - 1)
        return CategoricalDistribution(range(count))
    kind = IntDistribution if values.whole else FloatDistribution
    return kind(values.low, values.high, log=values.log)


def _value(values: OneOf | Between, parameter: Any) -> Any:
    if isinstance(values, OneOf):
        return values.values[parameter]
    return values.rounded(parameter)


def _parameter(values: OneOf | Between, value: Any) -> Any:
    if isinstance(values, OneOf):
        return values.values.index(value)
    return value


def _all(space: Space) -> Iterator[dict[str, Any]]:
    """All values of lists and of whole numbers; nothing if the space has others and so no end."""
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
    return all(isinstance(values, OneOf) or values.whole for values in space.values())


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)
