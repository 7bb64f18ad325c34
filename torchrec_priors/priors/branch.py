"""A branch of a prior tree combines the groups of some levels, one group of each level.

Only combinations that have items are kept. Each is stored as one number, its code: the group
numbers are digits in mixed radix, the upper level first.

The groups of the levels that restrict items define the item sets. Each item set is combined with
every combination of groups of the other levels. No array is as large as the product of the sizes of
all levels, as most of these combinations may have no items.

Shapes: C combinations that have items, M targets, L levels of the branch.
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

_ROWS = 1 << 16  # item rows that are processed together
_MOST_PAIRS = 1 << 25  # of a row and a combination of groups, among rows processed together


class Branch:
    """The combinations of groups of some levels, and the item sets that the groups define.

    Attributes:
        numbers: the index that each level of the branch has in the tree.
        levels: the priors, in the same order.
        sizes: the number of groups of each level.
        code_C: the codes of the combinations that have items, in ascending order; `keep` removes
            those without a head.
        set_C: the index of each combination's item set.
        set_sizes: the number of items in each item set.
        without_group: for each level, the number of items that are in none of its groups.
    """

    def __init__(self, numbers: list[int], levels: list[Prior], items: int) -> None:
        """
        Raises:
            UserError: the groups have too many combinations.
        """
        self.numbers = numbers
        self.levels = levels
        self.sizes = [len(level.groups) for level in levels]
        self._restricting = [d for d, level in enumerate(levels) if level.restricts_items]
        if self.combinations >= 1 << 62:
            raise _too_large(levels, f"{self.combinations:.0e} combinations of groups")

        self.without_group = [0] * len(levels)
        self._set_code, self.set_sizes = self._count_sets(items)
        self.code_C, self.set_C = self._combine()

    @property
    def combinations(self) -> int:
        """The number of all combinations of groups, including those without items."""
        return math.prod(self.sizes)

    def keep(self, kept_C: np.ndarray) -> None:
        """Keeps some combinations. Removes the others, and item sets without any combination left.

        Args:
            kept_C: bool in the order of `code_C`, whether the combination is kept.
        """
        self.code_C = self.code_C[kept_C]

        used, self.set_C = np.unique(self.set_C[kept_C], return_inverse=True)
        self._set_code = self._set_code[used]
        self.set_sizes = self.set_sizes[used]

    def leave_out_groups_without_users(self) -> None:
        """Removes the combinations that contain a group of users without any users."""
        group_CL = self.groups_of(self.code_C)
        kept_C = np.ones(len(group_CL), bool)
        for d, level in enumerate(self.levels):
            with_users: np.ndarray | None = getattr(level, "with_users", None)
            if with_users is not None:
                kept_C &= with_users[group_CL[:, d]]
        if not kept_C.all():
            self.keep(kept_C)

    def groups_of(self, code_C: np.ndarray) -> np.ndarray:
        """Decodes combinations: returns int64 [C, L], the group number at each level."""
        group_CL = np.zeros((len(code_C), len(self.sizes)), np.int64)
        for d, size in enumerate(self.sizes):
            step = math.prod(self.sizes[d + 1 :])
            group_CL[:, d] = code_C // step % size
        return group_CL

    def existing_groups(self) -> list[list[int]]:
        """Returns for each level the groups that are in a combination, ascending.

        A group without items or users is in none, such as "no genre" if every item has a genre.
        """
        group_CL = self.groups_of(self.code_C)
        return [np.unique(group_CL[:, d]).tolist() for d in range(len(self.levels))]

    def left_out(self) -> Iterator[tuple[int, ...]]:
        """Yields the combinations of existing groups that have no items, in ascending order."""
        kept = set(map(tuple, self.groups_of(self.code_C).tolist()))
        for groups in itertools.product(*self.existing_groups()):
            if groups not in kept:
                yield groups

    def nodes_at(self, depth: int) -> int:
        """Counts the distinct combinations of groups of the first `depth` levels."""
        return len(np.unique(self.code_C // math.prod(self.sizes[depth:])))

    def assign(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """Finds the combinations of groups that each target belongs to (Eq. 6).

        A code may be that of a combination that was removed.

        Returns:
            (index into targets, code): one pair for each target and combination.
        """
        index = torch.arange(len(targets.item_M), device=targets.item_M.device)
        code = torch.zeros_like(index)

        # Each level replaces a pair by one pair for each group of its target at this level.
        for level, size in zip(self.levels, self.sizes, strict=True):
            pair, group = level.members(targets.chosen(index))
            index = index[pair]
            code = code[pair] * size + group
        return index, code

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        """Finds the item sets that contain the rows in [first_row, last_row).

        Returns:
            (row id, number of an item set): one pair for each row and set.
        """
        row_blocks = [np.zeros(0, np.int64)]
        code_blocks = [np.zeros(0, np.int64)]
        for block in _blocks(first_row, last_row):
            rows_of_block, codes_of_block, _ = self._set_codes(*block)
            row_blocks.append(rows_of_block)
            code_blocks.append(codes_of_block)
        row = np.concatenate(row_blocks)
        code = np.concatenate(code_blocks)

        # The code of an item set that was removed is not in `_set_code`.
        if not len(self._set_code):
            return row[:0], row[:0]
        item_set = np.searchsorted(self._set_code, code)
        exists = self._set_code[np.minimum(item_set, len(self._set_code) - 1)] == code
        return row[exists], item_set[exists]

    def alternatives(self, first_row: int, last_row: int) -> np.ndarray:
        """Counts the combinations whose heads estimate the same probability of an item.

        Returns:
            int64, one count for each row in [first_row, last_row).
        """
        count = np.ones(last_row - first_row, np.int64)
        for d, level in enumerate(self.levels):
            if d in self._restricting:
                row, _ = level.eligible(first_row, last_row)
                labels = np.bincount(row - first_row, minlength=len(count))
                # Groups that exclude each other have different probabilities, which are summed.
                if getattr(level, "exclusive", False):
                    labels = (labels > 0).astype(np.int64)
                count *= labels
            elif not is_of_users(level):
                count *= self.sizes[d]
        return count

    def _count_sets(self, items: int) -> tuple[np.ndarray, np.ndarray]:
        """Finds the item sets, and adds up `without_group`.

        Returns:
            The code of each item set, over the levels that restrict items; and its number of items.
        """
        codes = [np.zeros(0, np.int64)]
        counts = [np.zeros(0, np.int64)]
        for block in _blocks(0, items):
            _, code_of_pairs, without = self._set_codes(*block)
            unique, count = np.unique(code_of_pairs, return_counts=True)
            codes.append(unique)
            counts.append(count)
            self.without_group = [a + b for a, b in zip(self.without_group, without, strict=True)]

        # The same item set may occur in several blocks.
        code, item_set = np.unique(np.concatenate(codes), return_inverse=True)
        sizes = np.zeros(len(code), np.int64)
        np.add.at(sizes, item_set, np.concatenate(counts))
        return code, sizes

    def _combine(self) -> tuple[np.ndarray, np.ndarray]:
        """Combines every item set with the groups of the levels that restrict no items.

        Returns:
            The code of every combination that has items, in ascending order; and the number of its
            item set.

        Raises:
            UserError: there are more than `MOST_PATHS` combinations.
        """
        others = math.prod(size for d, size in enumerate(self.sizes) if d not in self._restricting)
        if len(self._set_code) * others > MOST_PATHS:
            raise _too_large(self.levels, f"{len(self._set_code) * others:,} paths")

        # Two codes for each combination: over the restricting levels, and over the other levels.
        item_set = np.repeat(np.arange(len(self._set_code)), others)
        restricting_code = self._set_code[item_set]
        other_code = np.tile(np.arange(others), len(self._set_code))

        # The digits of both codes are merged, starting with the lowest level. `//=` changes the
        # array in place: it removes the digit that was used.
        code = np.zeros(len(item_set), np.int64)
        step = 1
        for d in reversed(range(len(self.sizes))):
            remaining_code = restricting_code if d in self._restricting else other_code
            code += remaining_code % self.sizes[d] * step
            remaining_code //= self.sizes[d]
            step *= self.sizes[d]

        order = np.argsort(code, kind="stable")
        return code[order], item_set[order]

    def _set_codes(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Finds the combinations of restricting groups that rows in [first_row, last_row) are in.

        If no level restricts items, all rows have the same code, 0.

        Returns:
            Row ids and codes, one pair for each row and combination; and for each level, the number
            of rows that are in none of its groups.

        Raises:
            UserError: there are more than `_MOST_PAIRS` pairs.
        """
        all_rows = np.arange(first_row, last_row)

        # For each restricting level: groups sorted by row, and where each row's groups start.
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

        # Each level replaces a pair by one pair for each group that its row has at this level.
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


def number_sets(branches: list[Branch], items: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Numbers the item sets of all branches.

    All sets that contain every item get the same number, so their paths are searched together.
    Sets of a branch with groups that exclude each other, such as events, are an exception: each
    gets a number of its own. The gate estimates how likely a target is to belong to each of these
    groups, although all of them may have the same items.

    Args:
        branches: the branches of the tree.
        items: the number of items in the data set.

    Returns:
        For each branch, the indices of its item sets; and the size of each set.
    """
    numbers: list[np.ndarray] = []
    sizes: list[int] = []
    whole = None  # the index of the set of all items, once there is one
    for branch in branches:
        number_S = np.zeros(len(branch.set_sizes), np.int64)
        shares = not any(getattr(level, "exclusive", False) for level in branch.levels)

        for set_of_branch, size in enumerate(branch.set_sizes.tolist()):
            is_whole = shares and size == items
            if is_whole and whole is not None:
                number_S[set_of_branch] = whole
                continue

            number_S[set_of_branch] = len(sizes)
            if is_whole:
                whole = len(sizes)
            sizes.append(size)
        numbers.append(number_S)
    return numbers, np.array(sizes, np.int64)


def _blocks(first_row: int, last_row: int) -> list[tuple[int, int]]:
    """Divides [first_row, last_row) into blocks of `_ROWS` rows; there is at least one block."""
    starts = range(first_row, max(last_row, first_row + 1), _ROWS)
    return [(start, min(start + _ROWS, last_row)) for start in starts]


def _too_large(levels: list[Prior], excess: str) -> UserError:
    """The error for levels with too many combinations; `excess` says how many of what."""
    names = ", ".join(f"{level.name} {len(level.groups):,}" for level in levels)
    return UserError(
        f"priors.tree makes {excess} ({names} groups): use fewer levels or coarser priors"
    )
