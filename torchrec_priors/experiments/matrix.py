"""The cells of an experiment: the listed ones, and all combinations of the axes' values."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchrec_priors.errors import UserError, nearest
from torchrec_priors.experiments.file import Changes, ExperimentFile
from torchrec_priors.settings.former_keys import present_key

JOIN = " + "
EVALUATION = "evaluation."
_MOST_CELLS = 10_000


@dataclass(frozen=True)
class Cell:
    """One configuration among those that are compared.

    Attributes:
        changes: dotted key -> value, changes to the base configuration, without the budget and the
            seed.
        trained_as: the name of the cell's training: the cell's name without the axes that change
            only the evaluation.
    """

    name: str
    changes: dict[str, Any]
    trained_as: str


def cells_of(file: ExperimentFile) -> list[Cell]:
    """Returns all cells: the listed ones, then all combinations of the axes' values.

    Both are in the order of the file. In the combinations, the last axis changes fastest.

    Raises:
        UserError: a name is invalid or repeated, a key is given by two axes or by a cell and the
            budget, or an exclusion leaves nothing out.
    """
    cells = [Cell(name, flat(changes), name) for name, changes in file.cells.items()]
    cells += _product(file)
    if not cells:
        raise UserError("every product of the axes is excluded: no cells are left")

    budget = flat(file.budget)
    if "seed" in budget:
        raise UserError("budget sets 'seed': give `seeds`")

    # For a fair comparison, budget and seeds are the same for all cells.
    for cell in cells:
        _check_name(cell.name)
        shared = in_both(budget, cell.changes)
        if shared:
            raise UserError(
                f"cell '{cell.name}' changes '{shared}', which [budget] sets for all cells"
            )
        if "seed" in cell.changes:
            raise UserError(f"cell '{cell.name}' sets 'seed': `seeds` sets it for all cells")

    names = [cell.name for cell in cells]
    _check_distinct(names)
    if file.reference and file.reference not in names:
        raise UserError(
            f"reference: there is no cell '{file.reference}': {nearest(file.reference, names)}"
        )
    return cells


def flat(changes: Changes, prefix: str = "") -> dict[str, Any]:
    """Returns changes by dotted key.

    They may be written as `model.dim = 8` or as `"model.dim" = 8`. Former names of keys are
    replaced by the current ones.

    >>> flat({"model": {"dim": 8}, "encoder.options": {"width": 3}})
    {'model.dim': 8, 'encoder.options.width': 3}
    """
    by_key: dict[str, Any] = {}
    for key, value in changes.items():
        # An empty table is a value, too. For example, it stands for no options.
        if isinstance(value, dict) and value:
            by_key.update(flat(value, f"{prefix}{key}."))
        else:
            by_key[present_key(prefix + key)] = value
    return by_key


def file_name(name: str) -> str:
    """Turns a cell's name into a part of a path.

    >>> file_name("Item x LT/ST_4 + max")
    'Item-x-LT-ST_4-+-max'
    """
    return re.sub(r"[^\w.+=]+", "-", name).strip("-.")


def _product(file: ExperimentFile) -> Iterator[Cell]:
    """Yields the cells of all combinations of the axes' values that are not excluded."""
    if not file.axes:
        return

    # Too many cells would fill the memory, so they are counted before they are made.
    products = math.prod(len(named) for named in file.axes.values())
    if products > _MOST_CELLS:
        raise UserError(
            f"axes: their product has {products:,} cells, more than {_MOST_CELLS:,}: "
            "give fewer values"
        )

    values = {
        axis: {name: flat(changes) for name, changes in named.items()}
        for axis, named in file.axes.items()
    }
    trained = [axis for axis, named in values.items() if _changes_training(named)]
    exclude = [_exclusion(entry, values) for entry in file.exclude]
    used: set[int] = set()  # numbers of entries that have excluded something

    for names in itertools.product(*values.values()):
        chosen = dict(zip(values, names, strict=True))
        matching = [number for number, entry in enumerate(exclude) if _matches(entry, chosen)]
        used.update(matching)
        if matching:
            continue

        # If two axes changed one key, the result would depend on their order in the file.
        changes: dict[str, Any] = {}
        for axis, name in chosen.items():
            shared = in_both(changes, values[axis][name])
            if shared:
                raise UserError(
                    f"cell '{JOIN.join(names)}': two axes change '{shared}', {axis} among them"
                )
            changes.update(values[axis][name])

        # If all axes change only the evaluation, the training has the whole name of the cell.
        trained_as = [chosen[axis] for axis in trained]
        yield Cell(JOIN.join(names), changes, JOIN.join(trained_as or names))

    for number, entry in enumerate(file.exclude):
        if number not in used:
            raise UserError(f"exclude: {entry} is the same as an earlier entry or names no cell")


def _changes_training(named: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether an axis changes more than the evaluation.

    Args:
        named: value of the axis -> its changes.
    """
    keys = [key for changes in named.values() for key in changes]
    return any(not key.startswith(EVALUATION) for key in keys)


def _exclusion(
    entry: Mapping[str, str | list[str]], values: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Checks an entry of `exclude`, and returns it with a list of values for every axis."""
    if not entry:
        raise UserError("exclude: an empty entry would leave out everything")

    lists = {}
    for axis, names in entry.items():
        if axis not in values:
            raise UserError(f"exclude: there is no axis '{axis}': {nearest(axis, values)}")
        lists[axis] = [names] if isinstance(names, str) else names
        for name in lists[axis]:
            if name not in values[axis]:
                raise UserError(
                    f"exclude: axis '{axis}' has no value '{name}': {nearest(name, values[axis])}"
                )
    return lists


def _matches(entry: Mapping[str, list[str]], chosen: Mapping[str, str]) -> bool:
    """Whether an entry of `exclude` leaves out the combination of these values."""
    return all(chosen[axis] in names for axis, names in entry.items())


def in_both(keys: Iterable[str], others: Iterable[str]) -> str | None:
    """Returns the first of `others` that equals, contains, or is contained in a key of `keys`."""
    for key, other in itertools.product(keys, others):
        if key == other or key.startswith(f"{other}.") or other.startswith(f"{key}."):
            return other
    return None


def _check_name(name: str) -> None:
    """Raises UserError if a cell's name is invalid."""
    # Options separate cells by commas, and Markdown tables separate them by bars and lines.
    if not file_name(name) or re.search(r"[,|\n]", name):
        raise UserError(
            f"cell '{name}': a name has letters or digits, and no comma, bar or line break"
        )


def _check_distinct(names: Sequence[str]) -> None:
    """Raises UserError if two cells would share a folder; some file systems ignore case."""
    by_folder: dict[str, str] = {}
    for name in names:
        folder = file_name(name).casefold()
        if folder in by_folder:
            raise UserError(
                f"cells '{by_folder[folder]}' and '{name}' would share the folder '{folder}': "
                "rename one"
            )
        by_folder[folder] = name
