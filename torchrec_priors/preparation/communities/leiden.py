"""The Leiden algorithm for modularity (Traag, Waltman and van Eck, Scientific Reports 9, 2019), in NumPy.

Moving node v to group C gains w(v, C) - resolution k_v K_C / 2m (in units of edge weight), where w(v, C) is the weight
of the edges from v into C, k_v the strength of v and K_C that of C without v. The refinement takes the best merge,
which is the paper's random choice with its theta at 0, so that chance enters by the order of visits alone.
"""

from collections import deque

import numpy as np

from torchrec_priors.preparation.communities.graph import Graph

_LEAST_GAIN = 1e-12  # of modularity; less is rounding


def leiden(graph: Graph, resolution: float, seed: int) -> np.ndarray:
    """Communities of a graph, repeated from its own result until modularity no longer rises.

    Args:
        resolution: the larger, the more and the smaller the communities; 1 is plain modularity.
        seed: of the order in which nodes are visited; the same seed gives the same communities.

    Returns:
        int64 [N]: community of each node, numbered from 0 as they appear; every community is connected.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    group = np.arange(graph.nodes)
    if graph.total == 0:
        return group
    best, quality = group, -np.inf
    while True:
        group = _pass(graph, best, resolution, random)
        reached = graph.modularity(group, resolution)
        if reached <= quality + _LEAST_GAIN:
            return _numbered(best)
        best, quality = group, reached


def _pass(graph: Graph, group: np.ndarray, resolution: float, random: np.random.Generator) -> np.ndarray:
    """Moves, refines and merges until every group is one node."""
    node = np.arange(graph.nodes)  # of `current`, in which each node of `graph` lies
    current, group = graph, _numbered(group)
    while True:
        group = _numbered(_move(current, group, resolution, random))
        if group.max() + 1 == current.nodes:
            return group[node]
        part = _numbered(_refine(current, group, resolution, random))
        if part.max() + 1 == current.nodes:  # nothing can be merged without leaving its group
            return group[node]
        group_of_part = np.empty(part.max() + 1, np.int64)
        group_of_part[part] = group
        current, group, node = current.merged(part), group_of_part, part[node]


def _move(graph: Graph, start: np.ndarray, resolution: float, random: np.random.Generator) -> np.ndarray:
    """Moves single nodes to the neighbouring group that gains most, until none gains; visits those that may."""
    group, rate, least = start.copy(), resolution / graph.total, _LEAST_GAIN * graph.total
    strength = np.bincount(group, weights=graph.strength, minlength=graph.nodes)
    size = np.bincount(group, minlength=graph.nodes)
    empty = [int(free) for free in np.flatnonzero(size == 0)]
    weight_to = np.zeros(graph.nodes)
    waiting = deque(random.permutation(graph.nodes).tolist())
    is_waiting = np.ones(graph.nodes, bool)
    while waiting:
        v = waiting.popleft()
        is_waiting[v] = False
        around = slice(graph.starts[v], graph.starts[v + 1])
        neighbours, own, k = graph.neighbours[around], group[v], graph.strength[v]
        groups = group[neighbours]
        np.add.at(weight_to, groups, graph.weights[around])
        strength[own] -= k
        stay = weight_to[own] - rate * k * strength[own]
        gains = weight_to[groups] - rate * k * strength[groups]
        weight_to[groups] = 0.0
        gain = gains.max(initial=-np.inf)
        if gain > stay + least and gain >= 0:
            new = groups[gains == gain].min()
        elif stay < -least and size[own] > 1:
            new = empty.pop()
        else:
            strength[own] += k
            continue
        size[own] -= 1
        size[new] += 1
        if size[own] == 0:
            empty.append(int(own))
        strength[new] += k
        group[v] = new
        again = neighbours[(groups != new) & ~is_waiting[neighbours]]
        is_waiting[again] = True
        waiting.extend(again.tolist())
    return group


def _refine(graph: Graph, group: np.ndarray, resolution: float, random: np.random.Generator) -> np.ndarray:
    """Parts of each group, grown from single nodes by merges along edges, hence connected."""
    part, rate = np.arange(graph.nodes), resolution / graph.total
    inside = group[graph.ends] == group[graph.neighbours]
    outward = np.bincount(graph.ends, weights=graph.weights * inside, minlength=graph.nodes)  # to the rest of the group
    strength = graph.strength.copy()
    of_group = np.bincount(group, weights=strength, minlength=graph.nodes)
    size = np.ones(graph.nodes, np.int64)
    weight_to = np.zeros(graph.nodes)
    for v in random.permutation(graph.nodes).tolist():
        k, whole = graph.strength[v], of_group[group[v]]
        if size[part[v]] > 1 or outward[v] < rate * k * (whole - k):
            continue
        around = slice(graph.starts[v], graph.starts[v + 1])
        near = inside[around]
        parts, weights = part[graph.neighbours[around][near]], graph.weights[around][near]
        np.add.at(weight_to, parts, weights)
        gains = weight_to[parts] - rate * k * strength[parts]
        gains[outward[parts] < rate * strength[parts] * (whole - strength[parts])] = -np.inf
        gain = gains.max(initial=-np.inf)
        if gain >= 0:
            new = parts[gains == gain].min()
            outward[new] += outward[v] - 2 * weight_to[new]
            strength[new] += k
            size[part[v]] -= 1
            size[new] += 1
            part[v] = new
        weight_to[parts] = 0.0
    return part


def _numbered(group: np.ndarray) -> np.ndarray:
    """The same groups, numbered from 0 as they appear."""
    _, first, place = np.unique(group, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    numbered: np.ndarray = number[place]
    return numbered
