"""Describes the graph, the groups and their quality in lines for the user."""

from torchrec_priors.preparation.priors.communities.graph import OTHERS
from torchrec_priors.preparation.priors.communities.log_graph import LogGraph
from torchrec_priors.preparation.priors.communities.partition import Partition
from torchrec_priors.preparation.priors.communities.quality import Quality
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior


def things(settings: GraphPrior | UserPrior) -> str:
    """Returns what the nodes of the graph are, as a word in the plural."""
    return f"{settings.entity.removesuffix('_id')}s"


def messages(
    settings: GraphPrior | UserPrior, log: LogGraph, partition: Partition, quality: Quality
) -> list[str]:
    """Returns the lines that describe a computed prior."""
    lines = [
        _about_graph(settings, log),
        _about_communities(settings, partition),
        _about_remainder(settings, log, partition),
        _about_quality(settings, partition, quality),
        _about_number(settings, partition),
    ]
    return [line for line in lines if line]


def _about_graph(settings: GraphPrior | UserPrior, log: LogGraph) -> str:
    graph = log.graph
    counted = "all" if settings.last is None else f"the last {settings.last:,}"
    line = (
        f"graph: {len(graph.weight):,} edges between {len(graph.connected):,} of {graph.nodes:,}"
        f" {things(settings)}, from {counted} training interactions of each user;"
        f" weights: {settings.weights}"
    )
    if log.unrelated:
        line += (
            f" (left out {log.unrelated:,} pairs that occur together no more often than by chance)"
        )
    return line


def _about_communities(settings: GraphPrior | UserPrior, partition: Partition) -> str:
    found = f"communities: {partition.found:,} at resolution {partition.resolution:.4g}"
    kept = f"{partition.communities:,} with at least {settings.min_size:,} {things(settings)} each"
    if settings.join:
        return f"{found}, merged into {kept}"
    return f"{found}; {kept}"


def _about_remainder(settings: GraphPrior | UserPrior, log: LogGraph, partition: Partition) -> str:
    """Says why items or users are in no community."""
    others = partition.group == OTHERS
    if not others.any():
        return ""

    absent = others & (log.graph.data == 0)
    apart = others & ~absent & (log.graph.strength == 0)
    small = others & (log.graph.strength > 0)
    # Where communities are joined, only parts of the graph without an edge to the rest stay small.
    where = "parts of the graph" if settings.join else "communities"
    reasons = {
        "without an interaction in the part of the log that was used": absent,
        "without an edge": apart,
        f"in {where} of fewer than {settings.min_size:,}": small,
    }
    counts = [f"{int(which.sum()):,} {why}" for why, which in reasons.items() if which.any()]
    return f"remainder: {int(others.sum()):,} {things(settings)} ({', '.join(counts)})"


def _about_quality(settings: GraphPrior | UserPrior, partition: Partition, quality: Quality) -> str:
    line = f"quality: modularity {quality.modularity:.4f} (weights: {settings.weights}"
    if settings.join:
        line += f"; the highest of the resolutions tried: {partition.best_modularity:.4f}"
    line += f"); the largest group has {quality.largest_share:.1%} of the interactions"

    agreement = quality.agreement
    if agreement is not None:
        line += (
            f"; agreement with '{agreement.prior}': NMI {agreement.nmi:.3f}"
            f" (by chance {agreement.by_chance:.3f})"
        )
    return line


def _about_number(settings: GraphPrior | UserPrior, partition: Partition) -> str:
    """Says why a requested number of groups was not reached."""
    if settings.groups is None or partition.groups == settings.groups:
        return ""
    if not settings.join:
        return (
            f"--groups {settings.groups}: no resolution tried gives this number; "
            f"{partition.groups} is the nearest"
        )

    if partition.groups > settings.groups:
        return (
            f"--groups {settings.groups}: a community and the remainder are at least"
            f" {partition.groups} groups"
        )
    remedy = "lower --min-size"
    if settings.resolution is not None:
        remedy = "raise --resolution or leave it out"
    return (
        f"--groups {settings.groups}: there are only {partition.groups} groups of at least"
        f" {settings.min_size:,} {things(settings)} at resolution {partition.resolution:.4g}:"
        f" {remedy}"
    )
