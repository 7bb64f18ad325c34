"""Names of heads: "short-term / Comedy" is one head, "Comedy" all heads of a group.

"genre: Comedy" also says which prior the group belongs to.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.errors import UserError, nearest, shown
from torchrec_priors.priors.tree import PriorTree

_BETWEEN = " / "
_SHOWN = 5  # names of a level, in messages


@dataclass(frozen=True)
class Named:
    """The heads that a name means.

    Attributes:
        path_K: bool, which they are.
        restricts_items: whether a group in the name does.
    """

    path_K: Tensor
    restricts_items: bool


class HeadNames:
    """The names of a tree's heads, which are compared exactly.

    A name is a path or the beginning of one ("short-term / Comedy"), a group of any level
    ("Comedy"), or a prior and one of its groups ("genre: Comedy"). If a name could be several of
    these, the first counts.
    """

    def __init__(self, tree: PriorTree) -> None:
        self.tree = tree
        self._priors: list[str] = [level.name for level in tree.levels]  # type: ignore[misc]
        self._groups = tree.group_names
        self._group_LK = [tree.groups_at(number) for number in range(len(tree.levels))]

    def find(self, name: str, option: str) -> Named:
        """Returns the heads that a name means.

        Args:
            option: the option that got the name, for messages.

        Raises:
            UserError: no head has the name, or groups of several priors have it.
        """
        # A tree without levels has one head, called "all".
        if not self._priors and name == "all":
            return Named(torch.ones(len(self.tree.item_set_K), dtype=torch.bool), False)

        # Several groups in a row; a single one is looked up on every level below.
        for groups in self._beginnings(name):
            if len(groups) > 1:
                path_K = self._through(list(enumerate(groups)))
                if path_K.any():
                    return Named(path_K, self._restrict(range(len(groups))))

        matches = self._levels(lambda _, group: group == name)
        if len(matches) > 1:
            choices = " or ".join(f"'{self._priors[level]}: {name}'" for level in matches)
            raise UserError(f"{option}: '{name}' is a group of several priors: write {choices}")
        # The prior's name decides, if the group's name is not enough or is no name at all.
        if not matches:
            matches = self._levels(lambda prior, group: f"{prior}: {group}" == name)
        for level, path_K in matches.items():
            return Named(path_K, self._restrict([level]))

        # A group exists without a head if it has no items, or no users.
        if self._is_without_head(name):
            raise UserError(
                f"{option}: {shown(name)} has no head, as nothing is in it: name another"
            )
        raise UserError(f"{option}: no head is named {shown(name)}: {self._hint(name)}")

    def _beginnings(self, name: str, level: int = 0) -> Iterator[tuple[int, ...]]:
        """Groups of the first levels whose names, one after another, are the name.

        There may be several, as the names of groups may contain " / ".
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
        """Whether the name is of a group, or of groups one after another, without any head."""
        if next(self._beginnings(name), None) is not None:
            return True
        for prior, groups in zip(self._priors, self._groups, strict=True):
            for group in groups:
                if name in (group, f"{prior}: {group}"):
                    return True
        return False

    def _levels(self, is_named: Callable[[str, str], bool]) -> dict[int, Tensor]:
        """Paths through the named group, by level, without levels where none goes through it."""
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
        """bool [K]: paths through all of some (level, group)."""
        return torch.stack([self._group_LK[level] == group for level, group in groups]).all(0)

    def _restrict(self, levels: Iterable[int]) -> bool:
        return any(self.tree.levels[level].restricts_items for level in levels)

    def _hint(self, name: str) -> str:
        """The name that was probably meant, or a list of valid names."""
        groups_of_levels = [self._with_heads(level) for level in range(len(self._priors))]
        valid = [group for groups in groups_of_levels for group in groups]
        # What looks like a path is compared with paths, everything else with groups.
        if _BETWEEN in name or not self._priors:
            valid = [path.name for path in self.tree.paths]
        hint = nearest(name, valid)
        if hint.startswith("did"):
            return hint

        # Too many names to list them all: some of each prior.
        levels = []
        for prior, groups in zip(self._priors, groups_of_levels, strict=True):
            more = ", ..." if len(groups) > _SHOWN else ""
            levels.append(f"{prior}: {', '.join(groups[:_SHOWN])}{more}")
        return f"valid: {'; '.join(levels) or 'all'}"

    def _with_heads(self, level: int) -> list[str]:
        """The groups of a level that heads go through."""
        # A path that does not go through the level has -1, which is no group's number.
        used = set(self._group_LK[level].tolist())
        return [group for number, group in enumerate(self._groups[level]) if number in used]
