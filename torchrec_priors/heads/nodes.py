"""The nodes of a prior tree that have adapters, and the nodes on each path.

A node with fewer training positives than a minimum has no adapter: its query is that of the node
above it, or the user state at the top. A node never has more positives than the node above it. So
if a node of a path has no adapter, the nodes below it on the path have none, either.

Shapes: K paths, n nodes at a depth.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.priors.tree import PriorTree

log = logging.getLogger(__name__)

_NAMED = 5  # the largest number of paths that a log line lists


@dataclass(frozen=True)
class Depth:
    """The nodes at one depth that have an adapter.

    Attributes:
        names: names of the nodes ("short-term / Comedy"), in the order of the adapters.
        node_K: index of each path's node at this depth; -1 if that node has no adapter.
        parent_n: index of the node above each node; 0 at the first depth.
        parent_group_n: group of the node above each node, among the groups of its level; 0 at the
            first depth.
    """

    names: list[str]
    node_K: Tensor
    parent_n: Tensor
    parent_group_n: Tensor


def nodes(tree: PriorTree, positives_K: Tensor | None = None, minimum: int = 0) -> list[Depth]:
    """Returns the depths of a tree, the topmost first. Depths without adapters are left out.

    Args:
        tree: the prior tree.
        positives_K: training positives of each path; needed if there is a minimum.
        minimum: a node with fewer positives on its paths has no adapter.
    """
    names = tree.group_names
    positives = [minimum] * len(tree.paths)
    if positives_K is not None:
        positives = positives_K.tolist()

    depths: list[Depth] = []
    number_above: dict[_Key, int] = {(): 0}
    for key_K in _keys_at_depths(tree):
        totals = dict.fromkeys(sorted(key_K), 0)
        for key, count in zip(key_K, positives, strict=True):
            totals[key] += count
        kept = [key for key, total in totals.items() if total >= minimum]
        if not kept:
            break

        number = {key: index for index, key in enumerate(kept)}
        parent_groups = [key[-2] if len(key) > 1 else 0 for key in kept]
        depths.append(
            Depth(
                names=[_name(tree, names, key) for key in kept],
                node_K=torch.tensor([number.get(key, -1) for key in key_K]),
                parent_n=torch.tensor([number_above[key[:-1]] for key in kept]),
                parent_group_n=torch.tensor(parent_groups),
            )
        )
        number_above = number
    return depths


# A node: the groups on the way down to it or, if each path has a single node, the path's number.
_Key = tuple[int, ...]


def _keys_at_depths(tree: PriorTree) -> list[list[_Key]]:
    """Returns the node of every path at each depth."""
    if tree.composition == "hierarchical":
        depths = range(1, len(tree.levels) + 1)
        return [[path.groups[:depth] for path in tree.paths] for depth in depths]
    if not len(tree.levels):
        return []
    return [[(number,) for number in range(len(tree.paths))]]  # one node for each path


def backed_off(tree: PriorTree, depths: list[Depth]) -> list[str | None]:
    """Returns the node to which each path backs off if its last node has no adapter.

    Returns:
        For each path: None if all its nodes have adapters; otherwise the name of the last node that
        has one, or "" if none has.
    """
    nodes_on_path = len(tree.levels)
    if tree.composition != "hierarchical":
        nodes_on_path = min(1, nodes_on_path)

    last_nodes: list[str | None] = []
    for number in range(len(tree.paths)):
        on_path = [depth for depth in depths if depth.node_K[number] >= 0]
        if len(on_path) == nodes_on_path:
            last_nodes.append(None)
        elif on_path:
            last = on_path[-1]
            last_nodes.append(last.names[last.node_K[number]])
        else:
            last_nodes.append("")
    return last_nodes


def say_backed_off(tree: PriorTree, depths: list[Depth], minimum: int) -> None:
    """Logs one line about the paths without an adapter of their own."""
    last_nodes = zip(tree.paths, backed_off(tree, depths), strict=True)
    names = [path.name for path, last_node in last_nodes if last_node is not None]
    if not names:
        return

    log.info(
        "%d of %d prior paths have fewer than %d training positives"
        " and no adapter of their own: %s",
        len(names),
        len(tree.paths),
        minimum,
        ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else ""),
    )


def _name(tree: PriorTree, names: list[list[str]], key: _Key) -> str:
    """Returns the name of a node: that of its path, or of the path's beginning.

    Args:
        tree: the prior tree.
        names: names of the groups of each level.
        key: the node.
    """
    if tree.composition != "hierarchical":
        return tree.paths[key[0]].name
    return " / ".join(groups[group] for groups, group in zip(names, key, strict=False))
