"""The prior tree: an ordered list of priors whose paths are the heads (paper 3.3).

A path is one group of each level. Its eligible items are the intersection along it; several paths may share the same
item set (a temporal level restricts no items). Levels that restrict items, taken together, define the item sets.

Shapes: K paths (heads), S item sets, M targets, D levels.
"""

import itertools
import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.errors import UserError
from torchrec_priors.priors.prior import Prior, Targets, load_prior

log = logging.getLogger(__name__)


@dataclass
class PriorsConfig:
    """Which prior heads there are.

    Attributes:
        tree: priors, upper level first, each the name of a prior of the data set or `temporal:n`; empty for one head.
    """

    tree: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Path:
    """One head.

    Attributes:
        groups: group number at each level.
        item_set: number of its item set.
        name: "short-term / Electronics"; "all" for the tree without levels.
    """

    groups: tuple[int, ...]
    item_set: int
    name: str


class PriorTree(nn.Module):
    """Paths over an ordered list of priors; the empty list gives one path over all items.

    Paths are ordered by item set, then by groups, so that pairs sorted by path are sorted by item set too. Paths
    without eligible items are dropped and logged.
    """

    path_of_code: Tensor

    def __init__(self, levels: list[Prior], items: int) -> None:
        """
        Args:
            levels: upper level first.
            items: number of rows of the table.
        """
        super().__init__()
        self.levels = nn.ModuleList(levels)  # type: ignore[arg-type]
        self.items = items
        self._sizes = [len(level.groups) for level in levels]
        self._restricting = [d for d, level in enumerate(levels) if level.restricts_items]
        codes = self._set_codes(0, items)[1]
        self._set_code = np.unique(codes)  # item set number -> mixed-radix code over the restricting levels
        self.set_sizes = np.bincount(np.searchsorted(self._set_code, codes), minlength=len(self._set_code))
        self.paths = self._make_paths(levels)
        table = torch.full((int(np.prod(self._sizes, dtype=np.int64)),), -1)
        for number, path in enumerate(self.paths):
            table[_code(path.groups, self._sizes)] = number
        self.register_buffer("path_of_code", table, persistent=False)

    def _make_paths(self, levels: list[Prior]) -> list[Path]:
        number_of = {int(code): number for number, code in enumerate(self._set_code)}
        sizes = [self._sizes[d] for d in self._restricting]
        paths, dropped = [], []
        for groups in itertools.product(*(range(size) for size in self._sizes)):
            item_set = number_of.get(_code(tuple(groups[d] for d in self._restricting), sizes))
            names = [level.groups[group] for level, group in zip(levels, groups, strict=True)]
            name = " / ".join(names) or "all"
            if item_set is None:
                dropped.append(name)
            else:
                paths.append(Path(groups, item_set, name))
        if dropped:
            log.info("dropped %d of %d prior paths that have no items: %s", len(dropped), len(dropped) + len(paths),
                     ", ".join(dropped[:5]) + (", ..." if len(dropped) > 5 else ""))  # fmt: skip
        return sorted(paths, key=lambda path: (path.item_set, path.groups))

    @property
    def item_set_K(self) -> list[int]:
        """Item set of each path, ascending."""
        return [path.item_set for path in self.paths]

    @property
    def item_sets(self) -> int:
        return len(self._set_code)

    def eligible(self, first_row: int, last_row: int) -> list[np.ndarray]:
        """Rows of [first_row, last_row) in each item set, ascending."""
        rows, codes = self._set_codes(first_row, last_row)
        numbers = np.searchsorted(self._set_code, codes)
        order = np.lexsort((rows, numbers))
        bounds = np.searchsorted(numbers[order], np.arange(len(self._set_code) + 1))
        return [rows[order[low:high]] for low, high in itertools.pairwise(bounds)]

    def alternatives(self, first_row: int, last_row: int) -> list[np.ndarray]:
        """For each of `eligible`'s rows, how many item sets hold it for a reason that another of them has, too: c(i).

        The heads of an item's several labels estimate one probability; those of several events stand for outcomes that
        exclude each other.
        """
        count = np.ones(last_row - first_row, np.int64)
        for d in self._restricting:
            if not getattr(self.levels[d], "exclusive", False):
                row, _ = self.levels[d].eligible(first_row, last_row)  # type: ignore[operator]
                count *= np.bincount(row - first_row, minlength=len(count))
        return [count[rows - first_row] for rows in self.eligible(first_row, last_row)]

    def _set_codes(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        """(row, code) for each combination of restricting groups a row belongs to: all items, one code, without any."""
        rows = np.arange(first_row, last_row)
        codes = np.zeros(last_row - first_row, np.int64)
        for d in self._restricting:
            row, group = self.levels[d].eligible(first_row, last_row)  # type: ignore[operator]
            starts = np.searchsorted(row, np.arange(first_row, last_row + 1))
            counts = np.diff(starts)[rows - first_row]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            chosen = group[np.repeat(starts[rows - first_row], counts) + within]
            rows, codes = np.repeat(rows, counts), np.repeat(codes, counts) * self._sizes[d] + chosen
        return rows, codes

    def assign(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """(index into targets, path) for every path a target is a positive of (Eq. 6)."""
        index = torch.arange(len(targets.item_M), device=targets.item_M.device)
        code = torch.zeros_like(index)
        for level, size in zip(self.levels, self._sizes, strict=True):
            chosen = Targets(targets.item_M[index], targets.offset_M[index])
            row, group = level.members(chosen)  # type: ignore[operator]
            index, code = index[row], code[row] * size + group
        path = self.path_of_code[code]
        has_head = path >= 0
        return index[has_head], path[has_head]


def load_tree(config: PriorsConfig, data: PreparedData, horizon: int) -> PriorTree:
    """The tree of a configuration over a prepared data set; `horizon` is training's tau."""
    levels = [load_prior(level, data, horizon) for level in config.tree]
    for specification, level in zip(config.tree, levels, strict=True):
        if [other.name for other in levels].count(level.name) > 1:
            raise UserError(f"priors.tree: '{specification}' and another level are both '{level.name}': give it once")
    return PriorTree(levels, data.items)


def _code(groups: tuple[int, ...], sizes: list[int]) -> int:
    """Mixed-radix number of a tuple of groups."""
    code = 0
    for group, size in zip(groups, sizes, strict=True):
        code = code * size + group
    return code
