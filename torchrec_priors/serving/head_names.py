"""What people call heads: "short-term / Comedy" is one, "Comedy" all those of a group, "genre: Comedy" says of what."""

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
    """Heads that a name stands for.

    Attributes:
        path_K: bool, which they are.
        restricts_items: whether a group in the name does.
    """

    path_K: Tensor
    restricts_items: bool


class HeadNames:
    """The names of a tree's heads, which are compared exactly.

    A name is a path or a beginning of one ("short-term / Comedy"), a group of any level ("Comedy"), or a prior and a
    group of it ("genre: Comedy"), in this order where it might be several.
    """

    def __init__(self, tree: PriorTree) -> None:
        self.tree = tree
        self._priors: list[str] = [level.name for level in tree.levels]  # type: ignore[misc]
        self._groups = tree.group_names
        self._group_LK = [tree.groups_at(number) for number in range(len(tree.levels))]

    def find(self, name: str, option: str) -> Named:
        """
        Args:
            option: what it was given to, for messages.

        Raises:
            UserError: no head is called so, or groups of several priors are.
        """
        if not self._priors and name == "all":
            return Named(torch.ones(len(self.tree.item_set_K), dtype=torch.bool), False)
        for groups in self._beginnings(name):
            if len(groups) > 1 and (path_K := self._through(list(enumerate(groups)))).any():
                return Named(path_K, self._restrict(range(len(groups))))
        found = self._levels(lambda _, group: group == name)
        if len(found) > 1:
            choices = " or ".join(f"'{self._priors[level]}: {name}'" for level in found)
            raise UserError(f"{option}: '{name}' is a group of several priors: write {choices}")
        found = found or self._levels(lambda prior, group: f"{prior}: {group}" == name)
        for level, path_K in found.items():
            return Named(path_K, self._restrict([level]))
        if self._without_items(name):
            raise UserError(
                f"{option}: {shown(name)} has no head, as nothing is in it: name another"
            )
        raise UserError(f"{option}: no head is named {shown(name)}: {self._hint(name)}")

    def _beginnings(self, name: str, level: int = 0) -> Iterator[tuple[int, ...]]:
        """Groups of the first levels whose names, one after another, are the name."""
        if level == len(self._groups):
            return
        for number, group in enumerate(self._groups[level]):
            if name == group:
                yield (number,)
            elif name.startswith(group + _BETWEEN):
                rest = self._beginnings(name[len(group + _BETWEEN) :], level + 1)
                yield from ((number, *groups) for groups in rest)

    def _without_items(self, name: str) -> bool:
        """Whether this is the name of a group, or of groups one after another, which no head goes through."""
        groups = (
            (prior, group)
            for prior, names in zip(self._priors, self._groups, strict=True)
            for group in names
        )
        return next(self._beginnings(name), None) is not None or any(
            name in (group, f"{prior}: {group}") for prior, group in groups
        )

    def _levels(self, is_named: Callable[[str, str], bool]) -> dict[int, Tensor]:
        """Paths through the group that is named, by level; a group that no item is in has none."""
        found = {}
        for level, prior in enumerate(self._priors):
            numbers = [
                number for number, group in enumerate(self._groups[level]) if is_named(prior, group)
            ]
            parts = [self._through([(level, number)]) for number in numbers]
            if parts and torch.stack(parts).any():
                found[level] = torch.stack(parts).any(0)
        return found

    def _through(self, groups: list[tuple[int, int]]) -> Tensor:
        """bool [K]: paths through all of some (level, group)."""
        return torch.stack([self._group_LK[level] == group for level, group in groups]).all(0)

    def _restrict(self, levels: Iterable[int]) -> bool:
        return any(self.tree.levels[level].restricts_items for level in levels)

    def _hint(self, name: str) -> str:
        there = [self._with_heads(level) for level in range(len(self._priors))]
        valid = [group for groups in there for group in groups]
        if _BETWEEN in name or not self._priors:
            valid = [path.name for path in self.tree.paths]
        hint = nearest(name, valid)
        if hint.startswith("did"):
            return hint
        levels = [
            f"{prior}: {', '.join(groups[:_SHOWN])}{', ...' if len(groups) > _SHOWN else ''}"
            for prior, groups in zip(self._priors, there, strict=True)
        ]
        return f"valid: {'; '.join(levels) or 'all'}"

    def _with_heads(self, level: int) -> list[str]:
        """The groups of a level that heads go through."""
        used = set(self._group_LK[level].tolist())
        return [group for number, group in enumerate(self._groups[level]) if number in used]
