"""The paths of a prior tree: their names, and what is logged about paths that are left out."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torchrec_priors.errors import UserError
from torchrec_priors.priors.branch import Branch
from torchrec_priors.priors.prior import Prior
from torchrec_priors.settings.priors import Composition

log = logging.getLogger(__name__)

_NAMED = 5  # the largest number of paths that a log line lists


@dataclass(frozen=True)
class Path:
    """A path of the tree, which has one head.

    Attributes:
        levels: the numbers of the levels that the path goes through: all levels, or a single one in
            an additive tree.
        groups: the index of the path's group at each of these levels.
        item_set: the index of the item set that the path may retrieve.
        name: the names of the groups, such as "short-term / Electronics"; "all" in a tree without
            levels.
    """

    levels: tuple[int, ...]
    groups: tuple[int, ...]
    item_set: int
    name: str


def group_names_in_paths(levels: Sequence[Prior], composition: Composition) -> list[list[str]]:
    """Returns the name that each group of each level has within the names of paths.

    This is the name of the group. But in an additive tree, where a path has a single group, groups
    of several levels may have the same name. Then the name of the prior is put in front of it.
    """
    names = [list(level.groups) for level in levels]
    if composition != "additive":
        return names

    times = Counter(name for names_of_level in names for name in names_of_level)
    for level, names_of_level in zip(levels, names, strict=True):
        names_of_level[:] = [
            f"{level.name}: {name}" if times[name] > 1 else name for name in names_of_level
        ]
    return names


def combination_names(branch: Branch, group_names: list[list[str]]) -> list[str]:
    """Names the combinations of groups of a branch, such as "short-term / Electronics".

    Args:
        branch: the branch; names are in the order of its `code_C`.
        group_names: the names of the groups of each level of the tree.
    """
    names = []
    for groups in branch.groups_of(branch.code_C).tolist():
        names_on_path = [
            group_names[level][group] for level, group in zip(branch.numbers, groups, strict=True)
        ]
        names.append(" / ".join(names_on_path) or "all")
    return names


def log_left_out(branches: list[Branch], composition: Composition) -> None:
    """Logs how many paths of a tree were dropped, and how many items are in no group of a level."""
    _log_dropped_paths(branches)
    for branch in branches:
        for level, items in zip(branch.levels, branch.without_group, strict=True):
            if items:
                heads = "no head"
                if composition == "additive":
                    heads = "none of its heads"
                log.warning(
                    "%s items are in no group of prior '%s', so %s can retrieve them",
                    f"{items:,}",
                    level.name,
                    heads,
                )


def without_paths(levels: list[Prior], chosen: bool) -> UserError:
    """Returns the error for a tree without paths.

    Args:
        levels: the priors of the tree.
        chosen: whether the tree was restricted to given paths.
    """
    if chosen:
        return UserError(
            "paths.json lists other prior paths than the run's data and configuration give:"
            " train again"
        )
    names = ", ".join(f"'{level.name}'" for level in levels)
    return UserError(
        f"priors.tree: no item is in a group of {names}: there is nothing to recommend"
    )


def _log_dropped_paths(branches: list[Branch]) -> None:
    """Logs how many paths were dropped, with the names of the first `_NAMED` of them.

    Paths through a group that has no items or no users are not counted: nothing is missing, as the
    group does not exist.
    """
    possible = 0
    dropped = 0
    examples: list[str] = []
    for branch in branches:
        combinations = math.prod(len(groups) for groups in branch.existing_groups())
        possible += combinations
        dropped += combinations - len(branch.code_C)
        for groups in itertools.islice(branch.left_out(), _NAMED - len(examples)):
            pairs = zip(branch.levels, groups, strict=True)
            examples.append(" / ".join(level.groups[group] for level, group in pairs))
    if not dropped:
        return

    log.info(
        "%s of the %s combinations of groups have no items, so they get no head: %s",
        f"{dropped:,}",
        f"{possible:,}",
        ", ".join(examples) + (", ..." if dropped > len(examples) else ""),
    )
