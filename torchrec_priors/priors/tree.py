"""The prior tree: an ordered list of priors whose paths are the heads (paper 3.3).

Composed hierarchically or multiplicatively, a path is one group of each level, and its eligible
items are those of all its groups. Composed additively, the tree is a union of trees of one level
each: a path is one group of one level. Several paths may share an item set: a temporal level
restricts no items.

A `Branch` holds the combinations of groups of some levels: one branch of all levels, or, composed
additively, one for each level.

Shapes: K paths (heads), S item sets, M targets, B users, G groups of a level, C items.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_priors.errors import UserError
from torchrec_priors.priors.branch import Branch
from torchrec_priors.priors.prior import NEEDS, Prior, Targets, is_of_users, needs_of
from torchrec_priors.settings.priors import Composition

log = logging.getLogger(__name__)

# Scattered items are handled in blocks of this many rows.
_ROWS_LOOKED_AT = 1 << 16

_NAMED = 5  # paths named in a line of the log


@dataclass(frozen=True)
class Path:
    """One head.

    Attributes:
        levels: indices of the levels it goes through: all of them, or one in an additive tree.
        groups: index of its group at each of these levels.
        item_set: index of its item set.
        name: "short-term / Electronics"; "all" in a tree without levels.
    """

    levels: tuple[int, ...]
    groups: tuple[int, ...]
    item_set: int
    name: str


class PriorTree(nn.Module):
    """Paths over an ordered list of priors; an empty list gives one path over all items.

    Paths are ordered by item set, then by levels and groups, so pairs sorted by path are also
    sorted by item set. Paths without eligible items, or of groups without users, are dropped;
    `say_what_is_left_out` logs them.

    Attributes:
        levels: the priors, the upper level first.
        items: number of items of the data set.
        needs: what priors read of the targets besides items and offsets.
        branches: the combinations of groups that are paths.
        set_sizes: int64 [S], number of items of each item set.
        item_set_K: item set of each path.
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
            levels: the upper level first.
            items: number of items of the data set.
            only: names of the paths that a model has heads for; None for all that have items and
                users.

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
        self._set_numbers, self.set_sizes = _number_sets(self.branches, items)
        numbered = zip(self._set_numbers, self.branches, strict=True)
        set_K = np.concatenate([number_S[branch.set_C] for number_S, branch in numbered])
        if not len(set_K):
            raise _without_paths(levels, self._chosen)

        # Path k is combination `_order[k]` of all branches, one branch after another.
        self._order = np.argsort(set_K, kind="stable")
        self.item_set_K: list[int] = set_K[self._order].tolist()
        self._register_paths()
        self._register_user_groups(levels)

    def _make_branches(self, levels: list[Prior], only: Collection[str] | None) -> list[Branch]:
        """The branches, without combinations that are no paths."""
        numbers = [list(range(len(levels)))]
        if self.composition == "additive" and levels:
            numbers = [[number] for number in range(len(levels))]

        branches = []
        for of_branch in numbers:
            branch = Branch(of_branch, [levels[number] for number in of_branch], self.items)
            if only is None:
                branch.leave_out_groups_without_users()
            else:
                names = self._names_of(branch, branch.code_C)
                branch.keep(np.array([name in only for name in names], bool))
            branches.append(branch)
        return branches

    def _register_paths(self) -> None:
        """Buffers of each branch: codes of its combinations, and the path of each."""
        path_of_combination = np.argsort(self._order)
        bounds = np.cumsum([0, *(len(branch.code_C) for branch in self.branches)])
        for number, branch in enumerate(self.branches):
            paths = path_of_combination[bounds[number] : bounds[number + 1]]
            code_C = torch.from_numpy(branch.code_C)
            self.register_buffer(f"code_{number}", code_C, persistent=False)
            self.register_buffer(f"path_{number}", torch.from_numpy(paths), persistent=False)

    def _register_user_groups(self, levels: list[Prior]) -> None:
        """Buffers of each level of users: the group of each path, and which groups have a head."""
        self._user_levels = [n for n, level in enumerate(levels) if is_of_users(level)]
        for number in self._user_levels:
            group_K = self.groups_at(number)
            has_head_G = torch.isin(torch.arange(len(levels[number].groups)), group_K)
            self.register_buffer(f"group_at_{number}", group_K, persistent=False)
            self.register_buffer(f"has_head_{number}", has_head_G, persistent=False)

    # The paths

    @cached_property
    def paths(self) -> list[Path]:
        """The heads, in their order."""
        combinations = []
        for branch in self.branches:
            groups_C = branch.groups_of(branch.code_C).tolist()
            names_C = self._names_of(branch, branch.code_C)
            for groups, name in zip(groups_C, names_C, strict=True):
                combinations.append((tuple(branch.numbers), tuple(groups), name))

        paths = []
        for combination, item_set in zip(self._order, self.item_set_K, strict=True):
            levels, groups, name = combinations[combination]
            paths.append(Path(levels, groups, item_set, name))
        return paths

    @property
    def item_sets(self) -> int:
        """S."""
        return len(self.set_sizes)

    @property
    def item_set_names(self) -> list[str]:
        """For each item set, the groups on one of its paths that restrict items: "Electronics".

        "all" for a set that no group restricts.
        """
        names = self._names_in_paths()
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
        """Number of nodes at each depth below the user state; each may have an adapter."""
        if self.composition == "hierarchical":
            (branch,) = self.branches
            return [branch.nodes_at(depth) for depth in range(1, len(self.levels) + 1)]
        if not len(self.levels):
            return []
        return [len(self.item_set_K)]

    @property
    def branch_K(self) -> Tensor:
        """int64 [K]: number of each path's branch."""
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
        """int64 [K]: group of each path at a level, -1 if the path does not go through it."""
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
        """Names of the groups of each level."""
        return [list(level.groups) for level in self.levels]  # type: ignore[arg-type]

    # Items

    def eligible(self, first_row: int, last_row: int) -> list[np.ndarray]:
        """Rows of [first_row, last_row) in each item set, ascending (Omega_k, Eq. 3)."""
        rows: list[np.ndarray] = [np.zeros(0, np.int64)] * self.item_sets
        for branch, number_S in zip(self.branches, self._set_numbers, strict=True):
            row, set_of_branch = branch.eligible(first_row, last_row)
            order = np.lexsort((row, set_of_branch))
            bounds = np.searchsorted(set_of_branch[order], np.arange(len(number_S) + 1))
            for number, (low, high) in zip(
                number_S.tolist(), itertools.pairwise(bounds), strict=True
            ):
                rows[number] = row[order[low:high]]
        return rows

    def eligible_among(self, item_C: np.ndarray) -> list[np.ndarray]:
        """Places in `item_C`, which ascends, of the items in each item set, ascending."""
        consecutive = len(item_C) and item_C[-1] - item_C[0] == len(item_C) - 1
        if consecutive:
            sets = self.eligible(int(item_C[0]), int(item_C[-1]) + 1)
            return [items - item_C[0] for items in sets]

        places: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in range(self.item_sets)]
        for start, end in _runs(item_C):
            run = item_C[start:end]
            sets = self.eligible(int(run[0]), int(run[-1]) + 1)
            for places_of_set, items in zip(places, sets, strict=True):
                place = np.searchsorted(run, items)
                places_of_set.append(start + place[run[place] == items])
        return [np.concatenate(places_of_set) for places_of_set in places]

    def decided(self) -> np.ndarray:
        """bool [S]: item sets that do not contain every target, so the gate must decide on them."""
        decided_S = np.ones(self.item_sets, bool)
        for branch, number_S in zip(self.branches, self._set_numbers, strict=True):
            restricts = any(level.restricts_items for level in branch.levels)
            decided_S[number_S] &= restricts
        return decided_S

    def alternatives(
        self, first_row: int, last_row: int, among: Sequence[int] | None = None
    ) -> np.ndarray:
        """c(i): the number of paths that estimate the same probability of an item.

        An item has one estimate for each label, each segment of time and each branch. Heads of
        different events do not count: events exclude each other, so their probabilities are summed.

        Args:
            among: numbers of the branches whose paths are used; None for all.

        Returns:
            int64 [branches, rows]; 0 if no path holds the item.
        """
        counts = np.stack([branch.alternatives(first_row, last_row) for branch in self.branches])
        if among is not None:
            unused = np.setdiff1d(np.arange(len(counts)), among)
            counts[unused] = 0
        return counts * (counts > 0).sum(0)

    def alternatives_among(
        self, item_C: np.ndarray, among: Sequence[int] | None = None
    ) -> np.ndarray:
        """`alternatives` of some items, which ascend: int64 [branches, C]."""
        parts = [np.zeros((len(self.branches), 0), np.int64)]
        for start, end in _runs(item_C):
            run = item_C[start:end]
            counts = self.alternatives(int(run[0]), int(run[-1]) + 1, among)
            parts.append(counts[:, run - run[0]])
        return np.concatenate(parts, 1)

    # Targets

    def assign(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """(index into targets, path) for every path a target is a positive of (Eq. 6)."""
        indexes = []
        paths = []
        for number, branch in enumerate(self.branches):
            code_C = getattr(self, f"code_{number}")
            path_C = getattr(self, f"path_{number}")
            if not len(code_C):  # no item is in any of its groups
                continue

            # A combination that was dropped is not among the codes.
            index, code = branch.assign(targets)
            place = torch.searchsorted(code_C, code).clamp(max=len(code_C) - 1)
            has_head = code_C[place] == code
            indexes.append(index[has_head])
            paths.append(path_C[place[has_head]])
        return torch.cat(indexes), torch.cat(paths)

    # Users

    def allowed_paths(self, user_B: Tensor) -> Tensor | None:
        """Paths that users may be served by: those of their own groups.

        Args:
            user_B: users' numbers in file order; -1 for an unknown user, who may use all paths.

        Returns:
            bool [B, K]; None in a tree without a level of users.
        """
        allowed_BK: Tensor | None = None
        for number in self._user_levels:
            group_K = self.get_buffer(f"group_at_{number}")
            of_level_BK = paths_of_groups(self._open_to(number, user_B), group_K)
            allowed_BK = of_level_BK if allowed_BK is None else allowed_BK & of_level_BK
        return allowed_BK

    def open_groups(self, user_B: Tensor) -> Tensor:
        """How many groups of users are open to each user, on each path.

        The heads of these groups estimate the same probability. 1 for a path that goes through no
        level of users.

        Args:
            user_B: as for `allowed_paths`.

        Returns:
            int64 [B, K].
        """
        shape = (len(user_B), len(self.item_set_K))
        count_BK = torch.ones(shape, dtype=torch.int64, device=user_B.device)
        for number in self._user_levels:
            open_B = self._open_to(number, user_B).sum(1).clamp(min=1)
            through_K = self.get_buffer(f"group_at_{number}") >= 0
            count_BK *= torch.where(through_K, open_B[:, None], 1)
        return count_BK

    def _open_to(self, number: int, user_B: Tensor) -> Tensor:
        """bool [B, G]: groups of a level of users whose heads are open to each user.

        All heads are open to an unknown user, and to a user whose groups have no heads because
        nobody was in them in training.
        """
        level = self.levels[number]
        has_head_G = self.get_buffer(f"has_head_{number}")
        groups = len(level.groups)  # type: ignore[arg-type]

        known_B = torch.nonzero(user_B >= 0).squeeze(1)
        index, group = level.groups_of_users(user_B[known_B])  # type: ignore[operator]
        open_BG = (user_B < 0)[:, None].repeat(1, groups)
        open_BG[known_B[index], group] = True
        open_BG &= has_head_G

        nowhere_B = ~open_BG.any(1)
        return open_BG | (nowhere_B[:, None] & has_head_G)

    # Names and the log

    def _names_of(self, branch: Branch, code_C: np.ndarray) -> list[str]:
        """Names of combinations: "short-term / Electronics"."""
        names = self._names_in_paths()
        combination_names = []
        for groups in branch.groups_of(code_C).tolist():
            of_levels = [
                names[level][group] for level, group in zip(branch.numbers, groups, strict=True)
            ]
            combination_names.append(" / ".join(of_levels) or "all")
        return combination_names

    def _names_in_paths(self) -> list[list[str]]:
        """Names of the groups of each level, as names of paths have them.

        In an additive tree, a name that occurs in several levels gets its prior's name in front.
        """
        names = self.group_names
        if self.composition != "additive":
            return names

        times = Counter(name for of_level in names for name in of_level)
        for level, of_level in zip(self.levels, names, strict=True):
            of_level[:] = [
                f"{level.name}: {name}" if times[name] > 1 else name for name in of_level
            ]
        return names

    def say_what_is_left_out(self) -> None:
        """Logs how many paths were dropped, and how many items are in no group of a level.

        Nothing is logged for a model whose paths were chosen before, by a run.
        """
        if self._chosen:
            return
        self._say_dropped_paths()
        for branch in self.branches:
            for number, items in zip(branch.numbers, branch.without_group, strict=True):
                if items:
                    heads = "no head"
                    if self.composition == "additive":
                        heads = "none of its heads"
                    log.warning(
                        "%s items are in no group of prior '%s', so %s can retrieve them",
                        f"{items:,}",
                        self.levels[number].name,
                        heads,
                    )

    def _say_dropped_paths(self) -> None:
        dropped = sum(branch.combinations - len(branch.code_C) for branch in self.branches)
        if not dropped:
            return

        names = self.group_names
        examples: list[str] = []
        for branch in self.branches:
            codes = list(itertools.islice(branch.left_out(), _NAMED - len(examples)))
            for groups in branch.groups_of(np.array(codes, np.int64)).tolist():
                of_levels = zip(branch.numbers, groups, strict=True)
                examples.append(" / ".join(names[level][group] for level, group in of_levels))

        log.info(
            "dropped %d of %d prior paths that have no items or no users: %s",
            dropped,
            dropped + len(self.item_set_K),
            ", ".join(examples) + (", ..." if dropped > len(examples) else ""),
        )


def paths_of_groups(open_XG: Tensor, group_K: Tensor) -> Tensor:
    """bool [X, K]: paths whose group at a level is open, or that do not go through the level
    (-1).
    """
    always = open_XG.new_ones(len(open_XG), 1)
    return torch.cat([open_XG, always], 1)[:, group_K]


def _runs(item_C: np.ndarray) -> list[tuple[int, int]]:
    """Bounds of runs of `item_C`, each within one block of `_ROWS_LOOKED_AT` rows."""
    if not len(item_C):
        return []
    bounds = np.flatnonzero(np.diff(item_C // _ROWS_LOOKED_AT)) + 1
    return list(itertools.pairwise([0, *bounds.tolist(), len(item_C)]))


def _without_paths(levels: list[Prior], chosen: bool) -> UserError:
    """The error for a tree without paths."""
    if chosen:
        return UserError(
            "paths.json lists other prior paths than the run's data and configuration give:"
            " train again"
        )
    names = ", ".join(f"'{level.name}'" for level in levels)
    return UserError(
        f"priors.tree: no item is in a group of {names}: there is nothing to recommend"
    )


def _number_sets(branches: list[Branch], items: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Numbers the item sets of all branches.

    A set of all items is one set, whichever groups have all items. But if a branch has groups that
    exclude each other, as events do, each of its sets keeps its own number: a gate decides how
    likely a target belongs to this group, not to any of them.

    Returns:
        For each branch the number of each of its item sets, and the size of each set.
    """
    numbers: list[np.ndarray] = []
    sizes: list[int] = []
    whole = None  # number of the set of all items
    for branch in branches:
        number_S = np.zeros(len(branch.set_sizes), np.int64)
        shares = not any(getattr(level, "exclusive", False) for level in branch.levels)
        for of_branch, size in enumerate(branch.set_sizes.tolist()):
            is_whole = shares and size == items
            if is_whole and whole is not None:
                number_S[of_branch] = whole
                continue
            number_S[of_branch] = len(sizes)
            if is_whole:
                whole = len(sizes)
            sizes.append(size)
        numbers.append(number_S)
    return numbers, np.array(sizes, np.int64)
