"""A branch of a prior tree: the combinations of the groups of some levels that have items.

A combination of groups is one number, its code: mixed radix, the upper level first. Levels that
restrict items together define the item sets; each set is combined with every combination of the
other levels' groups. Nothing as large as the product of all groups is ever built.

Shapes: C combinations that have items, M targets.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.errors import UserError
from torchrec_priors.priors.prior import Prior, Targets, is_of_users

MOST_PATHS = 1 << 17

# Rows that are processed together, and the most (row, combination of groups) pairs they may have.
_ROWS = 1 << 16
_MOST_PAIRS = 1 << 25


class Branch:
    """Combinations of the groups of some levels.

    Attributes:
        numbers: numbers of the levels in the tree.
        levels: their priors.
        code_C: codes of the combinations that have items (and heads, see `keep`), ascending.
        set_C: item set of each.
        set_sizes: number of items of each set.
        without_group: for each level, the number of items in none of its groups.
    """

    def __init__(self, numbers: list[int], levels: list[Prior], items: int) -> None:
        """
        Raises:
            UserError: the groups have too many combinations.
        """
        self.numbers = numbers
        self.levels = levels
        self.sizes = [len(level.groups) for level in levels]  # groups of each level
        self._restricting = [d for d, level in enumerate(levels) if level.restricts_items]
        if self.combinations >= 1 << 62:
            raise _too_large(levels, f"{self.combinations:.0e} combinations of groups")

        self.without_group = [0] * len(levels)
        self._set_code, self.set_sizes = self._count_sets(items)
        self.code_C, self.set_C = self._combine()

    @property
    def combinations(self) -> int:
        """Number of combinations of groups, also of those without items."""
        return math.prod(self.sizes)

    def keep(self, kept_C: np.ndarray) -> None:
        """Leaves out all other combinations, and item sets without combinations.

        Args:
            kept_C: bool, in the order of `code_C`.
        """
        self.code_C = self.code_C[kept_C]

        used, self.set_C = np.unique(self.set_C[kept_C], return_inverse=True)
        self._set_code = self._set_code[used]
        self.set_sizes = self.set_sizes[used]

    def leave_out_groups_without_users(self) -> None:
        """Leaves out combinations with a user group that is empty."""
        group_CL = self.groups_of(self.code_C)
        kept_C = np.ones(len(group_CL), bool)
        for d, level in enumerate(self.levels):
            with_users: np.ndarray | None = getattr(level, "with_users", None)
            if with_users is not None:
                kept_C &= with_users[group_CL[:, d]]
        if not kept_C.all():
            self.keep(kept_C)

    def groups_of(self, code_C: np.ndarray) -> np.ndarray:
        """[C, levels]: group numbers of codes."""
        group_CL = np.zeros((len(code_C), len(self.sizes)), np.int64)
        for d, size in enumerate(self.sizes):
            step = math.prod(self.sizes[d + 1 :])
            group_CL[:, d] = code_C // step % size
        return group_CL

    def left_out(self) -> Iterator[int]:
        """Codes of all combinations that are left out, ascending."""
        last = -1
        for code in itertools.chain(self.code_C.tolist(), [self.combinations]):
            yield from range(last + 1, code)
            last = code

    def nodes_at(self, depth: int) -> int:
        """Number of distinct combinations of the groups of the first `depth` levels."""
        return len(np.unique(self.code_C // math.prod(self.sizes[depth:])))

    def assign(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """(index into targets, code) for every combination a target is a positive of (Eq. 6)."""
        index = torch.arange(len(targets.item_M), device=targets.item_M.device)
        code = torch.zeros_like(index)
        for level, size in zip(self.levels, self.sizes, strict=True):
            row, group = level.members(targets.chosen(index))
            index = index[row]
            code = code[row] * size + group
        return index, code

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        """(row, item set) for each set a row of [first_row, last_row) is in."""
        rows = [np.zeros(0, np.int64)]
        codes = [np.zeros(0, np.int64)]
        for piece in _pieces(first_row, last_row):
            rows_of_piece, codes_of_piece, _ = self._set_codes(*piece)
            rows.append(rows_of_piece)
            codes.append(codes_of_piece)
        row = np.concatenate(rows)
        code = np.concatenate(codes)

        # Sets that were left out are not among the codes.
        if not len(self._set_code):
            return row[:0], row[:0]
        place = np.searchsorted(self._set_code, code)
        exists = self._set_code[np.minimum(place, len(self._set_code) - 1)] == code
        return row[exists], place[exists]

    def alternatives(self, first_row: int, last_row: int) -> np.ndarray:
        """For each row of [first_row, last_row), how many combinations estimate the same
        probability.
        """
        count = np.ones(last_row - first_row, np.int64)
        for d, level in enumerate(self.levels):
            if d in self._restricting:
                row, _ = level.eligible(first_row, last_row)
                labels = np.bincount(row - first_row, minlength=len(count))
                if getattr(level, "exclusive", False):
                    labels = (labels > 0).astype(np.int64)
                count *= labels
            elif not is_of_users(level):
                count *= self.sizes[d]
        return count

    def _count_sets(self, items: int) -> tuple[np.ndarray, np.ndarray]:
        """(code over the restricting levels, number of items) of each item set."""
        codes = [np.zeros(0, np.int64)]
        counts = [np.zeros(0, np.int64)]
        for piece in _pieces(0, items):
            _, code_of_pairs, without = self._set_codes(*piece)
            unique, count = np.unique(code_of_pairs, return_counts=True)
            codes.append(unique)
            counts.append(count)
            self.without_group = [a + b for a, b in zip(self.without_group, without, strict=True)]

        code, place = np.unique(np.concatenate(codes), return_inverse=True)
        sizes = np.zeros(len(code), np.int64)
        np.add.at(sizes, place, np.concatenate(counts))
        return code, sizes

    def _combine(self) -> tuple[np.ndarray, np.ndarray]:
        """(code, item set) of every combination that has items, codes ascending."""
        others = math.prod(size for d, size in enumerate(self.sizes) if d not in self._restricting)
        if len(self._set_code) * others > MOST_PATHS:
            raise _too_large(self.levels, f"{len(self._set_code) * others:,} paths")

        # Every item set with every combination of the other levels' groups.
        number = np.repeat(np.arange(len(self._set_code)), others)
        restricting = self._set_code[number]
        free = np.tile(np.arange(others), len(self._set_code))

        # The digits of both, put together from the lowest level up.
        code = np.zeros(len(number), np.int64)
        step = 1
        for d in reversed(range(len(self.sizes))):
            rest = restricting if d in self._restricting else free
            code += rest % self.sizes[d] * step
            rest //= self.sizes[d]
            step *= self.sizes[d]

        order = np.argsort(code, kind="stable")
        return code[order], number[order]

    def _set_codes(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """The combinations of restricting groups that rows of [first_row, last_row) belong to.

        Returns:
            (row, code) pairs (one code for all items if no level restricts them), and for each
            level the number of rows in none of its groups.
        """
        all_rows = np.arange(first_row, last_row)
        labels = []
        combinations = np.ones(len(all_rows))
        for d in self._restricting:
            row, group = self.levels[d].eligible(first_row, last_row)
            order = np.argsort(row, kind="stable")
            starts = np.searchsorted(row[order], np.arange(first_row, last_row + 1))
            labels.append((group[order], starts[:-1], np.diff(starts)))
            combinations *= np.diff(starts)

        if combinations.sum() > _MOST_PAIRS:
            raise _too_large(
                self.levels,
                f"{combinations.sum():,.0f} pairs of an item and a path,"
                f" in {len(all_rows):,} items",
            )

        # Level after level, each pair becomes one pair for each group of its row.
        without = [0] * len(self.levels)
        rows = all_rows
        codes = np.zeros(len(all_rows), np.int64)
        for d, (group, first, count) in zip(self._restricting, labels, strict=True):
            without[d] = int((count == 0).sum())
            counts = count[rows - first_row]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            chosen = group[np.repeat(first[rows - first_row], counts) + within]

            rows = np.repeat(rows, counts)
            codes = np.repeat(codes, counts) * self.sizes[d] + chosen
        return rows, codes, without


def _pieces(first_row: int, last_row: int) -> list[tuple[int, int]]:
    """[first_row, last_row) in pieces, at least one."""
    starts = range(first_row, max(last_row, first_row + 1), _ROWS)
    return [(start, min(start + _ROWS, last_row)) for start in starts]


def _too_large(levels: list[Prior], what: str) -> UserError:
    names = ", ".join(f"{level.name} {len(level.groups):,}" for level in levels)
    return UserError(
        f"priors.tree makes {what} ({names} groups): take fewer levels or coarser priors"
    )
