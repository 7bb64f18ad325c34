"""The prior tree: an ordered list of priors whose paths are the heads (paper 3.3).

Composed hierarchically or multiplicatively, a path is one group of each level, and its eligible items are the
intersection along it. Composed additively, the tree is a union of trees of one level each: a path is one group of one
level. Several paths may share the same item set: a temporal level restricts no items.

Shapes: K paths (heads), S item sets, M targets, B users.
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

_ROWS_LOOKED_AT = 1 << 16  # together, where only some of them are wanted


@dataclass(frozen=True)
class Path:
    """One head.

    Attributes:
        levels: numbers of the levels it goes through: all, or one in an additive composition.
        groups: group number at each of them.
        item_set: number of its item set.
        name: "short-term / Electronics"; "all" for the tree without levels.
    """

    levels: tuple[int, ...]
    groups: tuple[int, ...]
    item_set: int
    name: str


class PriorTree(nn.Module):
    """Paths over an ordered list of priors; the empty list gives one path over all items.

    Paths are ordered by item set, then by levels and groups, so that pairs sorted by path are sorted by item set too.
    Paths without eligible items, or of groups of users that have none, are dropped, which `say_what_is_left_out` logs.
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
            levels: upper level first.
            items: of the data set.
            only: names of the paths that a model has heads for; None for all that have items and users.

        Raises:
            UserError: there are too many paths, or none.
        """
        super().__init__()
        self.levels = nn.ModuleList(levels)  # type: ignore[arg-type]
        self.items = items
        self.composition = composition
        self._chosen = only is not None
        asked = {need for level in levels for need in needs_of(level)}
        self.needs = tuple(need for need in NEEDS if need in asked)
        chosen = [[number] for number in range(len(levels))] if composition == "additive" else []
        numbers = chosen or [list(range(len(levels)))]
        self.branches = [
            Branch(some, [levels[number] for number in some], items) for some in numbers
        ]
        for branch in self.branches:
            if only is None:
                branch.leave_out_groups_without_users()
            else:
                branch.keep(
                    np.array([name in only for name in self._names_of(branch, branch.code_C)], bool)
                )
        self._set_numbers, self.set_sizes = _number_sets(self.branches, items)
        set_K = np.concatenate(
            [
                number[branch.set_C]
                for number, branch in zip(self._set_numbers, self.branches, strict=True)
            ]
        )
        if not len(set_K) and only is not None:
            raise UserError(
                "paths.json is of other prior paths than the run's data and configuration have: train again"
            )
        if not len(set_K):
            names = ", ".join(f"'{level.name}'" for level in levels)
            raise UserError(
                f"priors.tree: no item is in a group of {names}: there is nothing to recommend"
            )
        self._order = np.argsort(
            set_K, kind="stable"
        )  # path number -> place in the branches' combinations
        self.item_set_K: list[int] = set_K[self._order].tolist()
        place = np.argsort(self._order)
        bounds = np.cumsum([0, *(len(branch.code_C) for branch in self.branches)])
        for number, branch in enumerate(self.branches):
            self.register_buffer(
                f"code_{number}", torch.from_numpy(branch.code_C), persistent=False
            )
            paths = torch.from_numpy(place[bounds[number] : bounds[number + 1]])
            self.register_buffer(f"path_{number}", paths, persistent=False)
        self._user_levels = [number for number, level in enumerate(levels) if is_of_users(level)]
        for number in self._user_levels:
            group_K = self.groups_at(number)
            has_head_G = torch.isin(torch.arange(len(levels[number].groups)), group_K)
            self.register_buffer(f"group_at_{number}", group_K, persistent=False)
            self.register_buffer(f"has_head_{number}", has_head_G, persistent=False)

    @cached_property
    def paths(self) -> list[Path]:
        """The heads, in their order."""
        unordered = []
        for branch in self.branches:
            of_paths = branch.groups_of(branch.code_C).tolist()
            for groups, name in zip(of_paths, self._names_of(branch, branch.code_C), strict=True):
                unordered.append((tuple(branch.numbers), tuple(groups), name))
        ordered = zip((unordered[place] for place in self._order), self.item_set_K, strict=True)
        return [
            Path(levels, groups, item_set, name) for (levels, groups, name), item_set in ordered
        ]

    @property
    def item_set_names(self) -> list[str]:
        """For each item set the groups on one of its paths that restrict items: "Electronics"; "all" without any."""
        names = self._names_in_paths()
        first: dict[int, Path] = {}
        for path in self.paths:
            first.setdefault(path.item_set, path)
        found = []
        for number in range(self.item_sets):
            groups = zip(first[number].levels, first[number].groups, strict=True)
            restricting = [
                names[level][group] for level, group in groups if self.levels[level].restricts_items
            ]
            found.append(" / ".join(restricting) or "all")
        return found

    @property
    def item_sets(self) -> int:
        return len(self.set_sizes)

    @property
    def nodes_at(self) -> list[int]:
        """Nodes at each depth below the user state, each of which may have an adapter."""
        if self.composition == "hierarchical":
            (branch,) = self.branches
            return [branch.nodes_at(depth) for depth in range(1, len(self.levels) + 1)]
        return [len(self.item_set_K)] if len(self.levels) else []

    def eligible(self, first_row: int, last_row: int) -> list[np.ndarray]:
        """Rows of [first_row, last_row) in each item set, ascending."""
        rows: list[np.ndarray] = [np.zeros(0, np.int64)] * self.item_sets
        for branch, number_S in zip(self.branches, self._set_numbers, strict=True):
            row, own = branch.eligible(first_row, last_row)
            order = np.lexsort((row, own))
            bounds = np.searchsorted(own[order], np.arange(len(number_S) + 1))
            for number, (low, high) in zip(
                number_S.tolist(), itertools.pairwise(bounds), strict=True
            ):
                rows[number] = row[order[low:high]]
        return rows

    def eligible_among(self, item_C: np.ndarray) -> list[np.ndarray]:
        """Places in `item_C` (ascending) of the items in each item set, ascending."""
        if len(item_C) and item_C[-1] - item_C[0] == len(item_C) - 1:  # all in a row
            return [
                items - item_C[0] for items in self.eligible(int(item_C[0]), int(item_C[-1]) + 1)
            ]
        places: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in range(self.item_sets)]
        for start, end in _runs(item_C):
            here = item_C[start:end]
            for found, items in zip(
                places, self.eligible(int(here[0]), int(here[-1]) + 1), strict=True
            ):
                place = np.searchsorted(here, items)
                found.append(start + place[here[place] == items])
        return [np.concatenate(found) for found in places]

    @property
    def branch_K(self) -> Tensor:
        """int64 [K]: branch of each path."""
        numbers = [
            np.full(len(branch.code_C), number) for number, branch in enumerate(self.branches)
        ]
        return torch.from_numpy(np.concatenate(numbers)[self._order])

    def decided(self) -> np.ndarray:
        """bool [S]: item sets that a target may fall outside of, which a gate decides."""
        decided = np.ones(self.item_sets, bool)
        for branch, number_S in zip(self.branches, self._set_numbers, strict=True):
            decided[number_S] &= any(level.restricts_items for level in branch.levels)
        return decided

    def alternatives(
        self, first_row: int, last_row: int, among: Sequence[int] | None = None
    ) -> np.ndarray:
        """int64 [branches, rows]: c(i), how many paths estimate the same probability of an item; 0 where none holds it.

        The heads of an item's several labels, those of several segments of time and those of several branches do; the
        heads of several events do not: their groups exclude each other.

        Args:
            among: numbers of the branches whose paths are used; None for all.
        """
        each = np.stack([branch.alternatives(first_row, last_row) for branch in self.branches])
        if among is not None:
            each[np.setdiff1d(np.arange(len(each)), among)] = 0
        return each * (each > 0).sum(0)

    def alternatives_among(
        self, item_C: np.ndarray, among: Sequence[int] | None = None
    ) -> np.ndarray:
        """`alternatives` of some items, which ascend: int64 [branches, C]."""
        parts = [np.zeros((len(self.branches), 0), np.int64)]
        for start, end in _runs(item_C):
            here = item_C[start:end]
            parts.append(
                self.alternatives(int(here[0]), int(here[-1]) + 1, among)[:, here - here[0]]
            )
        return np.concatenate(parts, 1)

    def assign(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """(index into targets, path) for every path a target is a positive of (Eq. 6)."""
        indexes = []
        paths = []
        for number, branch in enumerate(self.branches):
            code_C = getattr(self, f"code_{number}")
            path_C = getattr(self, f"path_{number}")
            if not len(code_C):  # no item is in any of its groups
                continue
            index, code = branch.assign(targets)
            place = torch.searchsorted(code_C, code).clamp(max=len(code_C) - 1)
            has_head = code_C[place] == code
            indexes.append(index[has_head])
            paths.append(path_C[place[has_head]])
        return torch.cat(indexes), torch.cat(paths)

    def allowed_paths(self, user_B: Tensor) -> Tensor | None:
        """bool [B, K]: paths that users may be served by, those of their own groups; None without a level of users.

        Args:
            user_B: users' numbers in file order; -1 for an unknown user, who may use all paths.
        """
        allowed_BK: Tensor | None = None
        for number in self._user_levels:
            own_BK = paths_of_groups(
                self._open_to(number, user_B), self.get_buffer(f"group_at_{number}")
            )
            allowed_BK = own_BK if allowed_BK is None else allowed_BK & own_BK
        return allowed_BK

    @property
    def device(self) -> torch.device:
        """Where targets must be."""
        device: torch.device = self.get_buffer("code_0").device
        return device

    def open_groups(self, user_B: Tensor) -> Tensor:
        """int64 [B, K]: how many groups of users are open to each user where a path goes through a level of them, 1
        where it goes through none: their heads estimate the same probability.

        Args:
            user_B: as for `allowed_paths`.
        """
        count_BK = torch.ones(
            len(user_B), len(self.item_set_K), dtype=torch.int64, device=user_B.device
        )
        for number in self._user_levels:
            own_B = self._open_to(number, user_B).sum(1).clamp(min=1)
            through_K = self.get_buffer(f"group_at_{number}") >= 0
            count_BK *= torch.where(through_K, own_B[:, None], 1)
        return count_BK

    def _open_to(self, number: int, user_B: Tensor) -> Tensor:
        """bool [B, G]: groups of a level of users whose heads are open to each user.

        All heads are to an unknown user, and to one whose groups have none, as nobody was in them at training.
        """
        level = self.levels[number]
        known_B = torch.nonzero(user_B >= 0).squeeze(1)
        index, group = level.groups_of_users(user_B[known_B])  # type: ignore[operator]
        open_BG = (user_B < 0)[:, None].repeat(1, len(level.groups))  # type: ignore[arg-type]
        open_BG[known_B[index], group] = True
        open_BG &= self.get_buffer(f"has_head_{number}")
        nowhere_B = ~open_BG.any(1)
        return open_BG | (nowhere_B[:, None] & self.get_buffer(f"has_head_{number}"))

    def groups_at(self, level: int) -> Tensor:
        """int64 [K]: each path's group at a level, -1 where it does not go through it."""
        groups = [
            branch.groups_of(branch.code_C)[:, branch.numbers.index(level)]
            if level in branch.numbers
            else np.full(len(branch.code_C), -1)
            for branch in self.branches
        ]
        return torch.from_numpy(np.concatenate(groups)[self._order])

    @property
    def group_names(self) -> list[list[str]]:
        """Names of the groups of each level."""
        return [list(level.groups) for level in self.levels]  # type: ignore[arg-type]

    def _names_of(self, branch: Branch, code_C: np.ndarray) -> list[str]:
        """Names of combinations: "short-term / Electronics"."""
        names = self._names_in_paths()
        return [
            " / ".join(
                names[level][group] for level, group in zip(branch.numbers, groups, strict=True)
            )
            or "all"
            for groups in branch.groups_of(code_C).tolist()
        ]

    def _names_in_paths(self) -> list[list[str]]:
        """Names of the groups of each level; those that stand twice in an additive tree with their prior's name."""
        names = self.group_names
        if self.composition == "additive":
            everywhere = Counter(name for level in names for name in level)
            twice = {name for name, times in everywhere.items() if times > 1}
            for level, its_names in zip(self.levels, names, strict=True):
                its_names[:] = [
                    f"{level.name}: {name}" if name in twice else name for name in its_names
                ]
        return names

    def say_what_is_left_out(self) -> None:
        """Logs how many paths were dropped, and how many items no group of a level has; says nothing of the chosen
        paths of a model whose data has grown."""
        if self._chosen:
            return
        names = self.group_names
        dropped = sum(branch.combinations - len(branch.code_C) for branch in self.branches)
        if dropped:
            first: list[str] = []
            for branch in self.branches:
                codes = list(itertools.islice(branch.left_out(), 5 - len(first)))
                for groups in branch.groups_of(np.array(codes, np.int64)).tolist():
                    first.append(
                        " / ".join(names[n][g] for n, g in zip(branch.numbers, groups, strict=True))
                    )
            every = dropped + len(self.item_set_K)
            log.info("dropped %d of %d prior paths that have no items or no users: %s", dropped, every,
                     ", ".join(first) + (", ..." if dropped > len(first) else ""))  # fmt: skip
        for branch in self.branches:
            for number, without in zip(branch.numbers, branch.without_group, strict=True):
                if without:
                    which = "no head" if self.composition != "additive" else "no head of it"
                    log.warning("%s items are in no group of prior '%s': %s reaches them",
                                f"{without:,}", self.levels[number].name, which)  # fmt: skip


def _runs(item_C: np.ndarray) -> list[tuple[int, int]]:
    """Bounds of runs of `item_C`, each within a few of the data set's rows."""
    bounds = np.flatnonzero(np.diff(item_C // _ROWS_LOOKED_AT)) + 1
    return list(itertools.pairwise([0, *bounds.tolist(), len(item_C)])) if len(item_C) else []


def paths_of_groups(open_XG: Tensor, group_K: Tensor) -> Tensor:
    """bool [X, K]: paths whose group at a level is open, and those that do not go through it (group -1)."""
    return torch.cat([open_XG, open_XG.new_ones(len(open_XG), 1)], 1)[:, group_K]


def _number_sets(branches: list[Branch], items: int) -> tuple[list[np.ndarray], np.ndarray]:
    """(for each branch, the tree's number of each of its item sets; sizes by number).

    All items are one set, however many groups have them all; but where a branch has groups that exclude each other, as
    events, each keeps its own: a gate tells how likely it is that a target belongs to this group, not to any of them.
    """
    numbers: list[np.ndarray] = []
    sizes: list[int] = []
    whole = None
    for branch in branches:
        number_S = np.zeros(len(branch.set_sizes), np.int64)
        shares = not any(getattr(level, "exclusive", False) for level in branch.levels)
        for own, size in enumerate(branch.set_sizes.tolist()):
            if shares and size == items and whole is not None:
                number_S[own] = whole
                continue
            number_S[own] = len(sizes)
            whole = len(sizes) if shares and size == items else whole
            sizes.append(size)
        numbers.append(number_S)
    return numbers, np.array(sizes, np.int64)
