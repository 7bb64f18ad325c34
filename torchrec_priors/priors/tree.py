"""The prior tree (section 3.3 of the paper): its levels are priors, and each path has a head.

In hierarchical and multiplicative composition, a path goes through one group of each level, and it
may retrieve the items that all these groups may retrieve. In additive composition, the tree is a
union of trees of one level each, and a path is one group of one level.

For example, these are the paths of `["temporal:2", "genre"]` with two genres:

    hierarchical, multiplicative      additive
    short-term / Comedy               short-term
    short-term / Drama                long-term
    long-term / Comedy                Comedy
    long-term / Drama                 Drama

The items that a path may retrieve are its item set. Several paths may share one: "short-term /
Comedy" and "long-term / Comedy" have the same item set.

A `Branch` combines the groups of some levels. An additive tree has one branch for each level; any
other tree has a single branch with all levels.

A row id is the number that `prepare` gives to an item. A level restricts items if each of its
groups may retrieve only some of the items.

Shapes: K paths (heads), S item sets, M targets, C combinations of groups in a branch (in `item_C`,
however, C is the number of given items).
"""

import itertools
from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_priors.priors.branch import Branch, number_sets
from torchrec_priors.priors.paths import (
    Path,
    combination_names,
    group_names_in_paths,
    log_left_out,
    without_paths,
)
from torchrec_priors.priors.paths_of_users import PathsOfUsers
from torchrec_priors.priors.prior import NEEDS, Prior, Targets, is_of_users, needs_of
from torchrec_priors.settings.priors import Composition

# Items whose row ids are not consecutive are looked up in blocks of this many row ids.
_ROWS_LOOKED_AT = 1 << 16


class PriorTree(nn.Module):
    """The paths through an ordered list of priors; an empty list gives one path with all items.

    Paths are ordered by item set, then by levels and groups. So (token, path) pairs that are sorted
    by path are also sorted by item set. A path that may retrieve no items, or that goes through a
    group of users without any users, is dropped. `say_what_is_left_out` logs how many combinations
    of groups have no items.

    Attributes:
        levels: the priors, the top level first.
        items: the number of items in the data set.
        composition: how the groups of several levels form paths (see the top of this module).
        needs: what the priors read about a target, in addition to its item and offset.
        branches: the combinations of groups that are paths.
        set_sizes: int64 [S], the number of items in each item set.
        item_set_K: the index of each path's item set.
        paths_of_users: the paths that are open to each user.
    """

    def __init__(
        self,
        levels: list[Prior],
        items: int,
        composition: Composition = "hierarchical",
        only: Collection[str] | None = None,
    ) -> None:
        """
        Args:
            levels: the priors, the top level first.
            items: the number of items in the data set.
            composition: how the groups of several levels form paths.
            only: the names of the paths to keep, if a trained model has heads only for these; None
                to keep all paths that have items and users.

        Raises:
            UserError: there are too many paths, or none.
        """
        super().__init__()
        self.levels = nn.ModuleList(levels)  # type: ignore[arg-type]
        self.items = items
        self.composition = composition
        self._chosen = only is not None
        needed = {need for level in levels for need in needs_of(level)}
        self.needs = tuple(need for need in NEEDS if need in needed)

        self.branches = self._make_branches(levels, only)
        self._set_numbers, self.set_sizes = number_sets(self.branches, items)
        numbered = zip(self._set_numbers, self.branches, strict=True)
        set_K = np.concatenate([number_S[branch.set_C] for number_S, branch in numbered])
        if not len(set_K):
            raise without_paths(levels, self._chosen)

        # Path k is combination `_order[k]` in the list of the combinations of all branches.
        self._order = np.argsort(set_K, kind="stable")
        self.item_set_K: list[int] = set_K[self._order].tolist()
        self._register_paths()
        self.paths_of_users = self._find_paths_of_users(levels)

    def _make_branches(self, levels: list[Prior], only: Collection[str] | None) -> list[Branch]:
        """Makes the branches, and keeps only the combinations of groups that become paths."""
        levels_of_branches = [list(range(len(levels)))]
        if self.composition == "additive" and levels:
            levels_of_branches = [[number] for number in range(len(levels))]

        branches = []
        for numbers in levels_of_branches:
            branch = Branch(numbers, [levels[number] for number in numbers], self.items)
            if only is None:
                branch.leave_out_groups_without_users()
            else:
                names = combination_names(branch, self._group_names_in_paths())
                branch.keep(np.array([name in only for name in names], bool))
            branches.append(branch)
        return branches

    def _register_paths(self) -> None:
        """Registers two buffers for each branch, which `assign` uses.

        They hold the codes (numbers) of the combinations in the branch, and the path of each code.
        """
        path_of_combination = np.argsort(self._order)
        bounds = np.cumsum([0, *(len(branch.code_C) for branch in self.branches)])
        for number, branch in enumerate(self.branches):
            paths = path_of_combination[bounds[number] : bounds[number + 1]]
            code_C = torch.from_numpy(branch.code_C)
            self.register_buffer(f"code_{number}", code_C, persistent=False)
            self.register_buffer(f"path_{number}", torch.from_numpy(paths), persistent=False)

    def _find_paths_of_users(self, levels: list[Prior]) -> PathsOfUsers:
        """Finds the paths that go through groups of users."""
        of_users = {number: level for number, level in enumerate(levels) if is_of_users(level)}
        group_of_path = {number: self.groups_at(number) for number in of_users}
        return PathsOfUsers(of_users, group_of_path, len(self.item_set_K))

    # The paths

    @cached_property
    def paths(self) -> list[Path]:
        """The paths, in the order of their heads."""
        combinations = []
        for branch in self.branches:
            groups_C = branch.groups_of(branch.code_C).tolist()
            names_C = combination_names(branch, self._group_names_in_paths())
            for groups, name in zip(groups_C, names_C, strict=True):
                combinations.append((tuple(branch.numbers), tuple(groups), name))

        paths = []
        for combination, item_set in zip(self._order, self.item_set_K, strict=True):
            levels, groups, name = combinations[combination]
            paths.append(Path(levels, groups, item_set, name))
        return paths

    @property
    def item_sets(self) -> int:
        """The number of item sets, S."""
        return len(self.set_sizes)

    @property
    def item_set_names(self) -> list[str]:
        """The name of each item set, such as "Electronics".

        The name consists of the groups on the first path with this item set, without those of
        levels that do not restrict items. It is "all" if no group is left.
        """
        names = self._group_names_in_paths()
        first_path: dict[int, Path] = {}
        for path in self.paths:
            first_path.setdefault(path.item_set, path)

        set_names = []
        for number in range(self.item_sets):
            path = first_path[number]
            restricting = [
                names[level][group]
                for level, group in zip(path.levels, path.groups, strict=True)
                if self.levels[level].restricts_items
            ]
            set_names.append(" / ".join(restricting) or "all")
        return set_names

    @property
    def nodes_at(self) -> list[int]:
        """The number of nodes at each depth of the tree; each node may have an adapter."""
        if self.composition == "hierarchical":
            (branch,) = self.branches
            return [branch.nodes_at(depth) for depth in range(1, len(self.levels) + 1)]
        if not len(self.levels):
            return []
        return [len(self.item_set_K)]

    @property
    def branch_K(self) -> Tensor:
        """int64 [K]: the index of each path's branch."""
        numbers = [
            np.full(len(branch.code_C), number) for number, branch in enumerate(self.branches)
        ]
        return torch.from_numpy(np.concatenate(numbers)[self._order])

    @property
    def device(self) -> torch.device:
        """The device that targets must be on."""
        device: torch.device = self.get_buffer("code_0").device
        return device

    def groups_at(self, level: int) -> Tensor:
        """Returns int64 [K]: the index of each path's group at a level.

        It is -1 for a path that does not go through the level.
        """
        groups = []
        for branch in self.branches:
            if level in branch.numbers:
                groups_CL = branch.groups_of(branch.code_C)
                groups.append(groups_CL[:, branch.numbers.index(level)])
            else:
                groups.append(np.full(len(branch.code_C), -1))
        return torch.from_numpy(np.concatenate(groups)[self._order])

    @property
    def group_names(self) -> list[list[str]]:
        """The names of the groups of each level."""
        return [list(level.groups) for level in self.levels]  # type: ignore[arg-type]

    def _group_names_in_paths(self) -> list[list[str]]:
        return group_names_in_paths(self.levels, self.composition)  # type: ignore[arg-type]

    def say_what_is_left_out(self) -> None:
        """Logs how many combinations of groups have no items, and how many items are in no group.

        Nothing is logged if the tree was made from given paths (`only`), because the training run
        that chose them has already logged this.
        """
        if not self._chosen:
            log_left_out(self.branches, self.composition)

    # Items

    def eligible(self, first_row: int, last_row: int) -> list[np.ndarray]:
        """Finds the items that paths may retrieve (Omega_k, Eq. 3) within a range of row ids.

        Returns:
            For each item set, its row ids in [first_row, last_row), ascending.
        """
        rows: list[np.ndarray] = [np.zeros(0, np.int64)] * self.item_sets
        for branch, number_S in zip(self.branches, self._set_numbers, strict=True):
            # Sorted by item set, then by row id, so the row ids of a set are a slice.
            row, set_of_branch = branch.eligible(first_row, last_row)
            order = np.lexsort((row, set_of_branch))
            bounds = np.searchsorted(set_of_branch[order], np.arange(len(number_S) + 1))
            for number, (low, high) in zip(
                number_S.tolist(), itertools.pairwise(bounds), strict=True
            ):
                rows[number] = row[order[low:high]]
        return rows

    def eligible_among(self, item_C: np.ndarray) -> list[np.ndarray]:
        """Finds the items that paths may retrieve, among some items.

        Args:
            item_C: row ids, ascending.

        Returns:
            For each item set, the positions of its items in `item_C`, ascending.
        """
        consecutive = len(item_C) and item_C[-1] - item_C[0] == len(item_C) - 1
        if consecutive:
            sets = self.eligible(int(item_C[0]), int(item_C[-1]) + 1)
            return [items - item_C[0] for items in sets]

        positions: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in range(self.item_sets)]
        for start, end in _runs(item_C):
            run = item_C[start:end]
            sets = self.eligible(int(run[0]), int(run[-1]) + 1)
            # A set also has items between those of `run`; they are left out.
            for positions_of_set, items in zip(positions, sets, strict=True):
                position = np.searchsorted(run, items)
                positions_of_set.append(start + position[run[position] == items])
        return [np.concatenate(positions_of_set) for positions_of_set in positions]

    def decided(self) -> np.ndarray:
        """Returns bool [S]: whether the gate must estimate P(the target is in an item set).

        This is False for the item set of a path if none of its levels restricts items, because
        every target is in this set.
        """
        decided_S = np.ones(self.item_sets, bool)
        for branch, number_S in zip(self.branches, self._set_numbers, strict=True):
            restricts = any(level.restricts_items for level in branch.levels)
            decided_S[number_S] &= restricts
        return decided_S

    def alternatives(
        self, first_row: int, last_row: int, among: Sequence[int] | None = None
    ) -> np.ndarray:
        """Returns c_k(i), the number by which fusion divides the sum of a branch's probabilities.

        c_k(i) is the number of the branch's paths that may retrieve item i (with the levels
        `temporal:2` and `genre`, for example, two for each genre of the item), times the number of
        branches with such paths. Dividing by c_k(i) averages within each branch, and then over the
        branches. Paths that differ only in their event are counted as one path, because events
        exclude each other: their probabilities are added up.

        Args:
            first_row, last_row: the items, as a half-open range of row ids.
            among: the indices of the branches whose paths are used; None for all branches.

        Returns:
            int64 [branches, items]; 0 if no path of the branch may retrieve the item.
        """
        counts = np.stack([branch.alternatives(first_row, last_row) for branch in self.branches])
        if among is not None:
            unused = np.setdiff1d(np.arange(len(counts)), among)
            counts[unused] = 0
        return counts * (counts > 0).sum(0)

    def alternatives_among(
        self, item_C: np.ndarray, among: Sequence[int] | None = None
    ) -> np.ndarray:
        """Returns `alternatives` for items that are given by ascending row ids.

        The result is int64 [branches, C].
        """
        parts = [np.zeros((len(self.branches), 0), np.int64)]
        for start, end in _runs(item_C):
            run = item_C[start:end]
            counts = self.alternatives(int(run[0]), int(run[-1]) + 1, among)
            parts.append(counts[:, run - run[0]])
        return np.concatenate(parts, 1)

    # Targets

    def assign(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """Finds the paths for which each target is a positive (Eq. 6).

        Returns:
            (index into targets, path): one pair for each target and path.
        """
        indexes = []
        paths = []
        for number, branch in enumerate(self.branches):
            code_C = getattr(self, f"code_{number}")
            path_C = getattr(self, f"path_{number}")
            if not len(code_C):  # no item is in a group of this branch, so it has no paths
                continue

            # The code of a combination that was dropped is not in `code_C`.
            index, code = branch.assign(targets)
            position = torch.searchsorted(code_C, code).clamp(max=len(code_C) - 1)
            has_head = code_C[position] == code
            indexes.append(index[has_head])
            paths.append(path_C[position[has_head]])
        return torch.cat(indexes), torch.cat(paths)


def _runs(item_C: np.ndarray) -> list[tuple[int, int]]:
    """Divides ascending row ids into runs, each within one block of `_ROWS_LOOKED_AT` row ids.

    Returns:
        The start and end of each run in `item_C`.
    """
    if not len(item_C):
        return []
    bounds = np.flatnonzero(np.diff(item_C // _ROWS_LOOKED_AT)) + 1
    return list(itertools.pairwise([0, *bounds.tolist(), len(item_C)]))
