"""The values among which a search chooses, for every cell, and that all of them are configurations."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torchrec_priors.config import with_changes
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.experiment.matrix import Cell, flat, in_both
from torchrec_priors.experiment.search.settings import SearchSettings
from torchrec_priors.settings.former_keys import present_key

_DIGITS = 3  # significant ones of a value from a range
_ENDS = ("low", "high")
_CHECKED = (
    512  # of a cell, beforehand; a trial that is no configuration all the same fails by itself
)


@dataclass(frozen=True)
class OneOf:
    """A list of values, of whatever type."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """What is checked beforehand."""
        return self.values

    @property
    def ordered(self) -> bool:
        """Whether they are numbers that rise, so that neighbours are alike."""
        numbers = all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in self.values
        )
        return numbers and all(a < b for a, b in itertools.pairwise(self.values))

    def holds(self, value: Any) -> bool:
        return value in self.values


@dataclass(frozen=True)
class Between:
    """All numbers from `low` to `high`, whole ones where both are; with `log`, every factor alike."""

    low: float
    high: float
    log: bool

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def holds(self, value: Any) -> bool:
        number = isinstance(value, int if self.whole else int | float) and not isinstance(
            value, bool
        )
        return number and self.low <= value <= self.high

    def rounded(self, value: float) -> float:
        """
        >>> Between(3e-4, 3e-3, True).rounded(0.00123456)
        0.00123
        """
        return value if self.whole else min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)


Space = dict[str, OneOf | Between]  # by dotted key


def spaces_of(
    settings: SearchSettings, cells: list[Cell], base: Mapping[str, Any], budget: Mapping[str, Any]
) -> dict[str, Space]:
    """The space of every cell that has trials.

    Args:
        base: values of the base configuration, as TOML gives them.
        budget: changes for all cells, by dotted key.

    Raises:
        UserError: a cell that is not there, values that cannot be read, a key that the budget or the seeds give or
            that a cell has otherwise, or values that are no configuration.
    """
    names = [cell.name for cell in cells]
    for name in settings.cells:
        if name not in names:
            raise UserError(f"search.cells: there is no cell '{name}': {nearest(name, names)}")
    _check_likes(settings, names)
    shared = dict(_read(settings.space, "search.space"))
    found = {}
    for cell in cells:
        own = settings.cells.get(cell.name)
        if own and own.like:
            continue
        more = dict(_read(own.space, f'search.cells."{cell.name}".space')) if own else {}
        found[cell.name] = {**shared, **more}
        _check(cell, found[cell.name], base, budget)
    return found


def _check_likes(settings: SearchSettings, names: list[str]) -> None:
    likes = {name: cell for name, cell in settings.cells.items() if cell.like}
    for name, cell in likes.items():
        what = f'search.cells."{name}".like'
        if cell.space:
            raise UserError(
                f"{what} = '{cell.like}': a cell that takes another's values has no space of its own"
            )
        if cell.like not in names:
            raise UserError(f"{what}: there is no cell '{cell.like}': {nearest(cell.like, names)}")
        if cell.like in likes:
            raise UserError(
                f"{what} = '{cell.like}' must have trials itself, which '{likes[cell.like].like}' has for it"
            )


def own_values(
    cell: Cell, space: Space, base: Mapping[str, Any], budget: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What a cell as it stands has of its space; None where that is not among the values."""
    config = flat(asdict(with_changes(base, {**budget, **cell.changes}.items())))
    own = {key: config.get(key) for key in space}
    return own if all(values.holds(own[key]) for key, values in space.items()) else None


def _read(
    space: Mapping[str, Any], place: str, prefix: str = ""
) -> Iterator[tuple[str, OneOf | Between]]:
    for name, value in space.items():
        key = present_key(prefix + name)
        what = f"{place}: '{prefix + name}'"
        if isinstance(value, dict) and value and not any(end in value for end in _ENDS):
            yield from _read(value, place, f"{key}.")
        elif isinstance(value, dict) and value:
            yield key, _between(value, what)
        elif isinstance(value, list):
            yield key, _one_of(value, what)
        else:
            raise UserError(
                f"{what} = {value!r}: write a list of values, or {{low = 0.1, high = 0.5}}"
            )


def _one_of(values: list[Any], what: str) -> OneOf:
    if not values:
        raise UserError(f"{what} is an empty list: give the values to try")
    if len({json.dumps(value) for value in values}) < len(values):
        raise UserError(f"{what} = {values}: a value stands twice")
    return OneOf(tuple(values))


def _between(value: dict[str, Any], what: str) -> Between:
    for name in value:
        if name not in (*_ENDS, "log"):
            raise UserError(f"{what} has an unknown '{name}': {nearest(name, [*_ENDS, 'log'])}")
    for end in _ENDS:
        number = value.get(end)
        if (
            isinstance(number, bool)
            or not isinstance(number, int | float)
            or not math.isfinite(number)
        ):
            raise UserError(f"{what}: '{end}' must be a number, not {number!r}")
    low = value["low"]
    high = value["high"]
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{what}: 'log' must be true or false, not {log!r}")
    if low >= high:
        raise UserError(f"{what}: low = {low} must be below high = {high}")
    if log and low <= 0:
        raise UserError(f"{what}: low = {low} must be positive where log = true")
    return Between(low, high, log)


def _check(cell: Cell, space: Space, base: Mapping[str, Any], budget: Mapping[str, Any]) -> None:
    """Raises UserError where values of the space, together with what else the cell has, are no configuration: all of
    the lists' with the ends of all ranges, or so many drawn of them."""
    if "seed" in space:
        raise UserError("search.space has 'seed': `search.seeds` gives them to all cells alike")
    taken = in_both(budget, space)
    if taken:
        raise UserError(f"search.space has '{taken}', which [budget] gives to all cells alike")
    for one, other in itertools.permutations([*space, *cell.changes], 2):
        if one.startswith(f"{other}."):
            raise UserError(
                f"search: '{one}' lies in '{other}', which cell '{cell.name}' or the space gives, too"
            )
    ends = [values.ends for values in space.values()]
    if math.prod(map(len, ends)) <= _CHECKED:
        corners = list(itertools.product(*ends))
    else:
        draw = random.Random(0)
        corners = [tuple(draw.choice(some) for some in ends) for _ in range(_CHECKED)]
    for values in corners:
        chosen = dict(zip(space, values, strict=True))
        try:
            with_changes(base, {**budget, **cell.changes, **chosen}.items())
        except UserError as error:
            said = ", ".join(f"{key} = {json.dumps(value)}" for key, value in chosen.items())
            raise UserError(
                f"search of cell '{cell.name}' with {said or 'its own values'}: {error}"
            ) from error
