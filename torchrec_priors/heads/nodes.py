"""Which adapters the heads of a prior tree have, and the way of each path through them.

A node with fewer training positives than a minimum has no adapter: its query is that of the node above it (the user
state, at the top). What lies below a node has no more positives than the node itself, so a path has the adapters of its
first nodes and then none.

Shapes: K paths, n nodes at a depth.
"""

import itertools
import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.priors.tree import PriorTree

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Depth:
    """The nodes at one depth that have an adapter.

    Attributes:
        names: "short-term / Comedy", in the order of the adapters.
        node_K: number of each path's node here; -1 where the path has ended above.
        parent_n: number of the node above each; 0 at the first depth.
        parent_group_n: its group at its own level; 0 at the first depth.
    """

    names: list[str]
    node_K: Tensor
    parent_n: Tensor
    parent_group_n: Tensor


def nodes(tree: PriorTree, positives_K: Tensor | None = None, minimum: int = 0) -> list[Depth]:
    """The depths of a tree, the topmost first; those without any adapter are left out.

    Args:
        positives_K: training positives of each path; needed where there is a minimum.
        minimum: a node with fewer of them on its paths has no adapter.
    """
    if tree.composition == "hierarchical":
        keys = [
            [path.groups[:depth] for path in tree.paths] for depth in range(1, len(tree.levels) + 1)
        ]
    else:  # one node a path
        keys = [[(number,) for number in range(len(tree.paths))]] if len(tree.levels) else []
    positives = [minimum] * len(tree.paths) if positives_K is None else positives_K.tolist()
    names = tree.group_names
    depths: list[Depth] = []
    above: dict[tuple[int, ...], int] = {(): 0}
    for here in keys:
        total = dict.fromkeys(sorted(here), 0)
        for key, count in zip(here, positives, strict=True):
            total[key] += count
        kept = [key for key, count in total.items() if count >= minimum]
        if not kept:
            break
        number = {key: place for place, key in enumerate(kept)}
        depths.append(
            Depth(
                names=[_name(tree, names, key) for key in kept],
                node_K=torch.tensor([number.get(key, -1) for key in here]),
                parent_n=torch.tensor([above[key[:-1]] for key in kept]),
                parent_group_n=torch.tensor([key[-2] if len(key) > 1 else 0 for key in kept]),
            )
        )
        above = number
    return depths


def backed_off(tree: PriorTree, depths: list[Depth]) -> list[str | None]:
    """For each path, None where all its nodes have an adapter, else the name of the last one that has ("" for none)."""
    wanted = len(tree.levels) if tree.composition == "hierarchical" else min(1, len(tree.levels))
    out: list[str | None] = []
    for number in range(len(tree.paths)):
        names = [depth.names[depth.node_K[number]] for depth in depths if depth.node_K[number] >= 0]
        out.append(None if len(names) == wanted else (names or [""])[-1])
    return out


def say_backed_off(tree: PriorTree, depths: list[Depth], minimum: int) -> None:
    """One line of the log about the paths without an adapter of their own."""
    names = [
        path.name
        for path, to in zip(tree.paths, backed_off(tree, depths), strict=True)
        if to is not None
    ]
    if names:
        first = ", ".join(itertools.islice(names, 5)) + (", ..." if len(names) > 5 else "")
        log.info("%d of %d prior paths have fewer than %d training positives and no adapter of their own: %s",
                 len(names), len(tree.paths), minimum, first)  # fmt: skip


def _name(tree: PriorTree, names: list[list[str]], key: tuple[int, ...]) -> str:
    """Name of a node: of a path itself, or of its beginning; `names` are those of the groups."""
    if tree.composition != "hierarchical":
        return tree.paths[key[0]].name
    return " / ".join(its_names[group] for its_names, group in zip(names, key, strict=False))
