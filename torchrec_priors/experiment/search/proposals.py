"""Values to try next for one cell: Optuna's tree-structured Parzen estimator, from the scores of earlier trials."""

import itertools
import json
import logging
import random
import sys
import zlib
from collections.abc import Iterator
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
    """Never the same twice, and a function of the space, the seed, and what was told between which proposals: a search
    that goes on says again what it said."""

    def __init__(self, space: Space, own: dict[str, Any] | None, cell: str, seed: int) -> None:
        """
        Args:
            own: values of the cell as it stands; None where they are not in the space.
        """
        self._space = space
        self._own = own
        self._random = random.Random(f"{seed}/{cell}")
        sampler = optuna.samplers.TPESampler(
            seed=zlib.crc32(f"{seed}/{cell}".encode()),
            n_startup_trials=_AT_RANDOM,
            constant_liar=True,
        )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._distributions = {key: _distribution(values) for key, values in space.items()}
        self._asked: list[optuna.Trial | None] = []
        self._seen: set[str] = set()

    def ask(self) -> dict[str, Any] | None:
        """Values by key, none for the first, which is the cell as it stands; None where all were tried."""
        if not self._asked:
            self._asked.append(None if self._own is None else self._take(self._own))
            return {}
        left = list(itertools.islice(self._untried(), _DRAWN_FROM))
        if not left and _is_finite(self._space):
            return None
        for _ in range(_TRIES if left else sys.maxsize):
            trial = self._study.ask(self._distributions)
            values = {key: _value(self._space[key], trial.params[key]) for key in self._space}
            if _text(values) not in self._seen:
                self._seen.add(_text(values))
                self._asked.append(trial)
                return values
            self._study.tell(trial, state=TrialState.FAIL)  # of which the sampler takes no notice
        self._asked.append(self._take(values := self._random.choice(left)))
        return values

    def tell(self, number: int, score: float | None) -> None:
        """The score of a trial, counted from 0; None, where it failed, counts as worse than any."""
        trial = self._asked[number]
        if trial is not None and score is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        elif trial is not None:
            self._study.tell(trial, score)

    def _untried(self) -> Iterator[dict[str, Any]]:
        return (values for values in _all(self._space) if _text(values) not in self._seen)

    def _take(self, values: dict[str, Any]) -> optuna.Trial:
        self._seen.add(_text(values))
        self._study.enqueue_trial(
            {key: _parameter(self._space[key], value) for key, value in values.items()}
        )
        return self._study.ask(self._distributions)


def _distribution(values: OneOf | Between) -> BaseDistribution:
    """Lists are told as places: of numbers that rise as whole numbers, of others as categories."""
    if isinstance(values, OneOf):
        count = len(values.values)
        return (
            IntDistribution(0, count - 1)
            if values.ordered
            else CategoricalDistribution(range(count))
        )
    kind = IntDistribution if values.whole else FloatDistribution
    return kind(values.low, values.high, log=values.log)


def _value(values: OneOf | Between, parameter: Any) -> Any:
    return values.values[parameter] if isinstance(values, OneOf) else values.rounded(parameter)


def _parameter(values: OneOf | Between, value: Any) -> Any:
    return values.values.index(value) if isinstance(values, OneOf) else value


def _all(space: Space) -> Iterator[dict[str, Any]]:
    """All values of lists and of whole numbers; nothing where there are others, of which there is no end."""
    if not _is_finite(space):
        return
    some = (
        values.values if isinstance(values, OneOf) else range(int(values.low), int(values.high) + 1)
        for values in space.values()
    )
    for chosen in itertools.product(*some):
        yield dict(zip(space, chosen, strict=True))


def _is_finite(space: Space) -> bool:
    return all(isinstance(values, OneOf) or values.whole for values in space.values())


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)
