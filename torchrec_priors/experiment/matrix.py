"""The cells of an experiment: those it lists, and the product of its axes."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torchrec_priors.errors import UserError, nearest
from torchrec_priors.experiment.file import Changes, ExperimentFile
from torchrec_priors.settings.former_keys import present_key

JOIN = " + "
EVALUATION = "evaluation."
_MOST_CELLS = 10_000


@dataclass(frozen=True)
class Cell:
    """One configuration among those that are compared.

    Attributes:
        changes: of the base configuration, by dotted key; without the budget's and the seed.
        trained_as: the name without the axes that change the evaluation alone: what its training goes by.
    """

    name: str
    changes: dict[str, Any]
    trained_as: str


def cells_of(file: ExperimentFile) -> list[Cell]:
    """All cells, in the file's order: the listed ones, then the product of the axes, whose last runs fastest.

    Raises:
        UserError: a name that cannot be or stands twice, a key that two axes or a cell and the budget give, or an
            exclusion that leaves nothing out.
    """
    cells = [Cell(name, flat(changes), name) for name, changes in file.cells.items()]
    cells += _product(file)
    if not cells:
        raise UserError("every product of the axes is excluded: no cells are left")
    budget = flat(file.budget)
    if "seed" in budget:
        raise UserError("budget sets 'seed': give `seeds`")
    for cell in cells:
        _check_name(cell.name)
        shared = in_both(budget, cell.changes)
        if shared:
            raise UserError(
                f"cell '{cell.name}' changes '{shared}', which [budget] gives to all cells alike"
            )
        if "seed" in cell.changes:
            raise UserError(
                f"cell '{cell.name}' sets 'seed': `seeds` gives them to all cells alike"
            )
    _check_distinct([cell.name for cell in cells])
    if file.reference and file.reference not in (names := [cell.name for cell in cells]):
        raise UserError(
            f"reference: there is no cell '{file.reference}': {nearest(file.reference, names)}"
        )
    return cells


def flat(changes: Changes, prefix: str = "") -> dict[str, Any]:
    """Changes by dotted key, whether they were written as `model.dim = 8` or `"model.dim" = 8`.

    >>> flat({"model": {"dim": 8}, "encoder.options": {"width": 3}})
    {'model.dim': 8, 'encoder.options.width': 3}
    """
    found: dict[str, Any] = {}
    for key, value in changes.items():
        if isinstance(value, dict) and value:
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[present_key(prefix + key)] = value
    return found


def file_name(name: str) -> str:
    """A cell's name as a part of a path.

    >>> file_name("Item x LT/ST_4 + max")
    'Item-x-LT-ST_4-+-max'
    """
    return re.sub(r"[^\w.+=]+", "-", name).strip("-.")


def _product(file: ExperimentFile) -> Iterator[Cell]:
    if not file.axes:
        return
    products = math.prod(len(named) for named in file.axes.values())
    if products > _MOST_CELLS:
        raise UserError(
            f"axes: their product has {products:,} cells, more than {_MOST_CELLS:,}: give fewer values"
        )
    values = {
        axis: {name: flat(changes) for name, changes in named.items()}
        for axis, named in file.axes.items()
    }
    trains = {
        axis: any(not key.startswith(EVALUATION) for changes in named.values() for key in changes)
        for axis, named in values.items()
    }
    exclude = [_exclusion(entry, values) for entry in file.exclude]
    met = [False] * len(exclude)
    for names in itertools.product(*values.values()):
        chosen = dict(zip(values, names, strict=True))
        hits = [all(chosen[axis] in some for axis, some in entry.items()) for entry in exclude]
        met = [one or hit for one, hit in zip(met, hits, strict=True)]
        if any(hits):
            continue
        changes: dict[str, Any] = {}
        for axis, name in chosen.items():
            shared = in_both(changes, values[axis][name])
            if shared:
                raise UserError(
                    f"cell '{JOIN.join(names)}': two axes change '{shared}', {axis} among them"
                )
            changes.update(values[axis][name])
        trained_as = [name for axis, name in chosen.items() if trains[axis]]
        yield Cell(JOIN.join(names), changes, JOIN.join(trained_as or names))
    for entry, one in zip(file.exclude, met, strict=True):
        if not one:
            raise UserError(f"exclude: {entry} is the same as an earlier entry or names no cell")


def _exclusion(
    entry: Mapping[str, str | list[str]], values: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    if not entry:
        raise UserError("exclude: an empty entry would leave out everything")
    found = {}
    for axis, some in entry.items():
        if axis not in values:
            raise UserError(f"exclude: there is no axis '{axis}': {nearest(axis, values)}")
        found[axis] = [some] if isinstance(some, str) else some
        for name in found[axis]:
            if name not in values[axis]:
                raise UserError(
                    f"exclude: axis '{axis}' has no value '{name}': {nearest(name, values[axis])}"
                )
    return found


def in_both(one: Iterable[str], other: Iterable[str]) -> str | None:
    """A key of `other` that is, holds, or lies in a key of `one`."""
    pairs = itertools.product(one, other)
    return next(
        (b for a, b in pairs if a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")), None
    )


def _check_name(name: str) -> None:
    if not file_name(name) or re.search(r"[,|\n]", name):
        raise UserError(
            f"cell '{name}': a name has letters or digits, and no comma, bar or line break"
        )


def _check_distinct(names: list[str]) -> None:
    """Raises UserError where two cells would share a folder, also where the file system ignores case."""
    known: dict[str, str] = {}
    for name in names:
        place = file_name(name).casefold()
        if place in known:
            raise UserError(
                f"cells '{known[place]}' and '{name}' would share the folder '{place}': rename one"
            )
        known[place] = name
