"""Finds heads by name.

"short-term / Comedy" is the name of one head, and "Comedy" matches all heads of this group. If
several priors have a group of this name, "genre: Comedy" says which of them is meant.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.errors import UserError, nearest, shown
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.find import REPEAT

_BETWEEN = " / "
_SHOWN = 5  # groups of each level that a message names


@dataclass(frozen=True)
class Named:
    """The heads that a name matches.

    Attributes:
        path_K: bool, whether the name matches this path's head. If the model has a repeat head, one
            more entry says whether the name matches that.
        restricts_items: whether any group in the name restricts items.
    """

    path_K: Tensor
    restricts_items: bool


class HeadNames:
    """The names of the heads of a tree.

    A name is one of the following. If several apply, the first of them counts:

        short-term / Comedy    a path, or the first groups of a path
        Comedy                 a group of any level
        genre: Comedy          a group of the level with this prior
        repeat                 the repeat head, if the model has one

    Names must match exactly.

    Attributes:
        heads: the number of heads.
    """

    def __init__(self, tree: PriorTree, *, repeats: bool = False) -> None:
        """
        Args:
            tree: the prior tree.
            repeats: whether the model also has a repeat head.
        """
        self.tree = tree
        self._repeats = repeats
        self.heads = len(tree.item_set_K) + repeats
        self._priors: list[str] = [level.name for level in tree.levels]  # type: ignore[misc]
        self._groups = tree.group_names
        self._group_LK = [tree.groups_at(number) for number in range(len(tree.levels))]

    def find(self, name: str, option: str) -> Named:
        """Returns the heads that a name matches.

        Args:
            name: the name.
            option: the option with which the name was given, for messages.

        Raises:
            UserError: no head has the name, or groups of several priors have it.
        """
        if not self._repeats:
            return self._find(name, option)
        if name == REPEAT:
            path_K = torch.zeros(self.heads, dtype=torch.bool)
            path_K[-1] = True
            return Named(path_K, False)
        match = self._find(name, option)
        return Named(F.pad(match.path_K, (0, 1)), match.restricts_items)

    def groups_with_heads(self, level: int) -> list[str]:
        """Returns the names of the groups of a level that have a head.

        Args:
            level: the number of the level.
        """
        # `used` may also contain -1, for paths that do not go through the level.
        used = set(self._group_LK[level].tolist())
        return [group for number, group in enumerate(self._groups[level]) if number in used]

    def _find(self, name: str, option: str) -> Named:
        """Like `find`, for the heads of the tree."""
        # A tree without levels has one head, called "all".
        if not self._priors and name == "all":
            return Named(torch.ones(len(self.tree.item_set_K), dtype=torch.bool), False)

        # First, the name is read as several groups of a path. A name of a single group is looked up
        # below, at every level.
        for groups in self._beginnings(name):
            if len(groups) > 1:
                path_K = self._through(list(enumerate(groups)))
                if path_K.any():
                    return Named(path_K, self._restrict(range(len(groups))))

        matches = self._levels(lambda _, group: group == name)
        if len(matches) > 1:
            choices = " or ".join(f"'{self._priors[level]}: {name}'" for level in matches)
            raise UserError(f"{option}: '{name}' is a group of several priors: write {choices}")
        # If the name is not that of a group, it may consist of a prior and a group.
        if not matches:
            matches = self._levels(lambda prior, group: f"{prior}: {group}" == name)
        for level, path_K in matches.items():
            return Named(path_K, self._restrict([level]))

        # A group without items or users has no head.
        if self._is_without_head(name):
            raise UserError(
                f"{option}: {shown(name)} has no head, as nothing is in it: name another"
            )
        raise UserError(f"{option}: no head is named {shown(name)}: {self._hint(name)}")

    def _beginnings(self, name: str, level: int = 0) -> Iterator[tuple[int, ...]]:
        """Yields the ways to read a name as groups of the first levels, one group of each level.

        There may be several ways, as names of groups may contain " / ".

        Args:
            name: the name.
            level: the level of the first group.
        """
        if level == len(self._groups):
            return
        for number, group in enumerate(self._groups[level]):
            if name == group:
                yield (number,)
            elif name.startswith(group + _BETWEEN):
                rest = self._beginnings(name[len(group + _BETWEEN) :], level + 1)
                yield from ((number, *groups) for groups in rest)

    def _is_without_head(self, name: str) -> bool:
        """Whether the name is that of a group, or of several groups of a path.

        It is called for names that match no head.
        """
        if next(self._beginnings(name), None) is not None:
            return True
        for prior, groups in zip(self._priors, self._groups, strict=True):
            for group in groups:
                if name in (group, f"{prior}: {group}"):
                    return True
        return False

    def _levels(self, is_named: Callable[[str, str], bool]) -> dict[int, Tensor]:
        """Finds the paths through groups with a given name.

        Args:
            is_named: given the names of a prior and of its group, says whether they match.

        Returns:
            bool [K] for each level with such paths: whether the path goes through the group.
        """
        by_level = {}
        for level, prior in enumerate(self._priors):
            numbers = [
                number for number, group in enumerate(self._groups[level]) if is_named(prior, group)
            ]
            parts = [self._through([(level, number)]) for number in numbers]
            if parts and torch.stack(parts).any():
                by_level[level] = torch.stack(parts).any(0)
        return by_level

    def _through(self, groups: list[tuple[int, int]]) -> Tensor:
        """Returns bool [K]: whether a path goes through all of some groups.

        Args:
            groups: the level and the number of each group.
        """
        return torch.stack([self._group_LK[level] == group for level, group in groups]).all(0)

    def _restrict(self, levels: Iterable[int]) -> bool:
        """Whether any of the levels restricts items."""
        return any(self.tree.levels[level].restricts_items for level in levels)

    def _hint(self, name: str) -> str:
        """Returns the name that was probably meant, or a list of valid names."""
        groups_of_levels = [self.groups_with_heads(level) for level in range(len(self._priors))]
        valid = [group for groups in groups_of_levels for group in groups]
        # A name with " / " is compared with the names of paths, any other name with groups.
        if _BETWEEN in name or not self._priors:
            valid = [path.name for path in self.tree.paths]
        if self._repeats:
            valid.append(REPEAT)
        hint = nearest(name, valid)
        if hint.startswith("did"):
            return hint

        # There are too many names to list them all, so some names of each prior are listed.
        levels = []
        for prior, groups in zip(self._priors, groups_of_levels, strict=True):
            more = ", ..." if len(groups) > _SHOWN else ""
            levels.append(f"{prior}: {', '.join(groups[:_SHOWN])}{more}")
        levels = levels or ["all"]
        if self._repeats:
            levels.append(REPEAT)
        return f"valid: {'; '.join(levels)}"
