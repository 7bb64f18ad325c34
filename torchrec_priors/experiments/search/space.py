"""Reads the space of each cell, i.e. the values that a search may choose, and checks it."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torchrec_priors.config import with_changes
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.experiments.matrix import Cell, flat, in_both
from torchrec_priors.experiments.search.settings import SearchSettings
from torchrec_priors.settings.former_keys import present_key

_DIGITS = 3  # significant digits of a value from a range
_ENDS = ("low", "high")

# Combinations of a cell that are checked beforehand. An invalid one that is not among them fails as
# a trial.
_CHECKED = 512


@dataclass(frozen=True)
class OneOf:
    """A list of values, of any type."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that are checked beforehand."""
        return self.values

    @property
    def ordered(self) -> bool:
        """Whether the values are ascending numbers, so that neighbours are similar."""
        numbers = all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in self.values
        )
        return numbers and all(a < b for a, b in itertools.pairwise(self.values))

    def holds(self, value: Any) -> bool:
        """Whether a value is in the list."""
        return value in self.values


@dataclass(frozen=True)
class Between:
    """A range from `low` to `high`. It has only whole numbers if both of these are whole.

    Attributes:
        log: whether values are drawn uniformly on a logarithmic scale, not on a linear one.
    """

    low: float
    high: float
    log: bool

    @property
    def ends(self) -> tuple[float, float]:
        """The values that are checked beforehand."""
        return self.low, self.high

    @property
    def whole(self) -> bool:
        """Whether the range has only whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def holds(self, value: Any) -> bool:
        """Whether a value is in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.whole and not isinstance(value, int):
            return False
        return self.low <= value <= self.high

    def rounded(self, value: float) -> float:
        """Rounds a value of the range to a few significant digits.

        >>> Between(3e-4, 3e-3, True).rounded(0.00123456)
        0.00123
        """
        if self.whole:
            return value
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)


Space = dict[str, OneOf | Between]  # dotted key -> its values


def spaces_of(
    settings: SearchSettings, cells: list[Cell], base: Mapping[str, Any], budget: Mapping[str, Any]
) -> dict[str, Space]:
    """Returns the space of every cell that has trials.

    Args:
        base: the values of the base configuration, as read from TOML.
        budget: dotted key -> value, changes for all cells.

    Raises:
        UserError: a cell does not exist, values cannot be read, a key is also set by the budget or
            the seeds or is a part of a key of the cell, or values do not give a valid
            configuration.
    """
    names = [cell.name for cell in cells]
    for name in settings.cells:
        if name not in names:
            raise UserError(f"search.cells: there is no cell '{name}': {nearest(name, names)}")
    _check_likes(settings, names)

    shared = dict(_read(settings.space, "search.space"))
    spaces = {}
    for cell in cells:
        cell_search = settings.cells.get(cell.name)
        if cell_search and cell_search.like:
            continue

        # For the same key, the values of a cell replace those of all cells.
        space = dict(shared)
        if cell_search:
            space |= _read(cell_search.space, f'search.cells."{cell.name}".space')
        _check(cell, space, base, budget)
        spaces[cell.name] = space
    return spaces


def _check_likes(settings: SearchSettings, names: list[str]) -> None:
    """Raises UserError if a cell cannot take the values of the cell in `like`."""
    likes = {name: cell for name, cell in settings.cells.items() if cell.like}
    for name, cell in likes.items():
        key = f'search.cells."{name}".like'
        if cell.space:
            raise UserError(
                f"{key} = '{cell.like}': a cell with the values of another cell cannot have a space"
            )

        if cell.like not in names:
            raise UserError(f"{key}: there is no cell '{cell.like}': {nearest(cell.like, names)}")
        if cell.like in likes:
            raise UserError(
                f"{key} = '{cell.like}': that cell has no trials, it takes the values of "
                f"'{likes[cell.like].like}'"
            )


def own_values(
    cell: Cell, space: Space, base: Mapping[str, Any], budget: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Returns the values of a cell without changes; None if one of them is not in the space."""
    config = flat(asdict(with_changes(base, {**budget, **cell.changes}.items())))
    chosen = {key: config.get(key) for key in space}
    if not all(values.holds(chosen[key]) for key, values in space.items()):
        return None
    return chosen


def _read(
    space: Mapping[str, Any], section: str, prefix: str = ""
) -> Iterator[tuple[str, OneOf | Between]]:
    """Reads a space: yields each dotted key with its values.

    Args:
        section: the section of the file, for error messages.
        prefix: the first part of the keys, with a dot at the end.
    """
    for name, value in space.items():
        key = present_key(prefix + name)
        title = f"{section}: '{key}'"

        # A table with `low` or `high` is a range, any other table is a section of keys.
        is_section = isinstance(value, dict) and bool(value)
        if is_section and not any(end in value for end in _ENDS):
            yield from _read(value, section, f"{key}.")
        elif is_section:
            yield key, _between(value, title)
        elif isinstance(value, list):
            yield key, _one_of(value, title)
        else:
            raise UserError(
                f"{title} = {value!r}: write a list of values, or {{low = 0.1, high = 0.5}}"
            )


def _one_of(values: list[Any], title: str) -> OneOf:
    """Checks a list of values from the file."""
    if not values:
        raise UserError(f"{title} is an empty list: give the values to try")
    # Values are compared as JSON, where 1, 1.0 and true differ.
    if len({json.dumps(value) for value in values}) < len(values):
        raise UserError(f"{title} = {values}: a value is listed twice")
    return OneOf(tuple(values))


def _between(value: dict[str, Any], title: str) -> Between:
    """Checks a range from the file."""
    for name in value:
        if name not in (*_ENDS, "log"):
            raise UserError(f"{title} has an unknown '{name}': {nearest(name, [*_ENDS, 'log'])}")
    for end in _ENDS:
        number: Any = value.get(end)
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not math.isfinite(number):
            raise UserError(f"{title}: '{end}' must be a number, not {number!r}")

    low = value["low"]
    high = value["high"]
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{title}: 'log' must be true or false, not {log!r}")
    if low >= high:
        raise UserError(f"{title}: low = {low} must be below high = {high}")
    if log and low <= 0:
        raise UserError(f"{title}: low = {low} must be positive if log = true")
    return Between(low, high, log)


def _check(cell: Cell, space: Space, base: Mapping[str, Any], budget: Mapping[str, Any]) -> None:
    """Raises UserError if some values of the space do not give a valid configuration of the cell.

    All values of lists are combined with the ends of all ranges. If there are too many
    combinations, `_CHECKED` of them are drawn.
    """
    if "seed" in space:
        raise UserError("search.space has 'seed': `search.seeds` sets it for all cells")
    taken = in_both(budget, space)
    if taken:
        raise UserError(f"search.space has '{taken}', which [budget] sets for all cells")
    # If both `a` and `a.b` were set, the result would depend on their order.
    for inner, outer in itertools.permutations([*space, *cell.changes], 2):
        if inner.startswith(f"{outer}."):
            raise UserError(
                f"search: '{inner}' is in '{outer}', which cell '{cell.name}' or the space "
                "also sets"
            )

    for values in _corners([values.ends for values in space.values()]):
        chosen = dict(zip(space, values, strict=True))
        try:
            with_changes(base, {**budget, **cell.changes, **chosen}.items())
        except UserError as error:
            named = ", ".join(f"{key} = {json.dumps(value)}" for key, value in chosen.items())
            raise UserError(
                f"search of cell '{cell.name}' with {named or 'its own values'}: {error}"
            ) from error


def _corners(ends: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Returns all combinations of ends, or `_CHECKED` random ones if there are more."""
    if math.prod(map(len, ends)) <= _CHECKED:
        return list(itertools.product(*ends))
    # With a fixed seed, the same file is always accepted or always rejected.
    draw = random.Random(0)
    return [tuple(draw.choice(values) for values in ends) for _ in range(_CHECKED)]
