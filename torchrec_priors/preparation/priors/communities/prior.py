"""Computes a prior from the communities in the training log of a prepared data set."""

from collections.abc import Callable

import duckdb
import numpy as np
import pyarrow as pa

from torchrec_priors.common.scratch import scratch_folder
from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.on_duckdb import MEMORY, DuckDB
from torchrec_priors.preparation.priors.communities.by_resolution import (
    at_resolution,
    by_resolution,
)
from torchrec_priors.preparation.priors.communities.graph import OTHERS, Graph
from torchrec_priors.preparation.priors.communities.log_graph import LogGraph, log_graph
from torchrec_priors.preparation.priors.communities.messages import messages, things
from torchrec_priors.preparation.priors.communities.names import named_by_category
from torchrec_priors.preparation.priors.communities.partition import Partition
from torchrec_priors.preparation.priors.communities.quality import measure
from torchrec_priors.preparation.priors.communities.search import joined
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.prepared.data_set import PreparedData

Report = Callable[[str], None]


def communities(
    settings: GraphPrior | UserPrior,
    data: PreparedData,
    report: Report = lambda _: None,
    memory: str = MEMORY,
) -> Grouping:
    """Groups the items or users of a data set by communities in its training interactions.

    Args:
        settings: the settings of the prior.
        data: the data set.
        report: called with messages about the progress.
        memory: the memory limit for computing the graph. Data that exceeds it is written to
            temporary files next to the data set.

    Raises:
        UserError: no two items or users share anything in training, or a file cannot be read.
    """
    report("counting who shares what")
    # The engine is closed before the search for communities, to free its memory.
    try:
        with explaining(f"--data: '{data.folder}'"), scratch_folder(data.scratch, "edges") as spill:
            engine = DuckDB(spill, memory)
            log = log_graph(settings, engine, data, report)
            engine.close()
    except (duckdb.IOException, duckdb.InvalidInputException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--data: '{data.folder}' cannot be read ({reason}): prepare the data set again"
        ) from error

    graph = log.graph
    if not len(graph.weight):
        raise UserError(
            f"prior '{settings.name}': no two {things(settings)} share anything in training: "
            "no communities"
        )

    report(f"communities of {len(graph.weight):,} edges")
    return _grouping(settings, data, log, _partition(settings, graph, report))


def _partition(settings: GraphPrior | UserPrior, graph: Graph, report: Report) -> Partition:
    """Finds communities, and makes groups from them as the settings say."""
    groups = settings.groups
    resolution = settings.resolution
    if settings.join:
        return joined(graph, groups, resolution, settings.min_size, settings.seed, report)
    if groups is None:
        return at_resolution(graph, resolution or 1.0, settings.min_size, settings.seed)
    return by_resolution(graph, groups, settings.min_size, settings.seed, report)


def _grouping(
    settings: GraphPrior | UserPrior,
    data: PreparedData,
    log: LogGraph,
    partition: Partition,
) -> Grouping:
    """Turns a partition into groups, which are numbered by size.

    Equally large groups are numbered by their smallest original id. OTHERS is one of the groups.
    """
    numbers, first, sizes = np.unique(partition.group, return_index=True, return_counts=True)
    # Nodes are in the order of original ids, so `first` is the smallest id of a group.
    order = np.lexsort((first, -sizes))
    number_of = {int(numbers[group]): number for number, group in enumerate(order)}

    names = _names(settings, data, log.entities, partition, number_of)
    group = pa.array(
        np.array([number_of[number] for number in partition.group.tolist()]), pa.int32()
    )
    column = "item" if isinstance(settings, GraphPrior) else "user_id"
    table = pa.table({column: log.entities[column], "group": group}).sort_by(column)

    quality = measure(settings, data, log, partition)
    reached = {"reached_resolution": partition.resolution, **quality.recorded()}
    return Grouping(
        kind=settings.kind,  # type: ignore[arg-type]
        groups=names,
        sizes=sizes[order].tolist(),
        table=table,
        made_by={**settings.recorded(), **reached},
        messages=messages(settings, log, partition, quality),
    )


def _names(
    settings: GraphPrior | UserPrior,
    data: PreparedData,
    entities: pa.Table,
    partition: Partition,
    number_of: dict[int, int],
) -> list[str]:
    """Returns the names of the groups, by group number.

    All names except that of OTHERS contain the number of the group, counted from 1.

    Args:
        number_of: the group number of each community and of OTHERS, in the order of group numbers.
    """
    if isinstance(settings, UserPrior):
        return [
            "other users" if group == OTHERS else f"users {number + 1}"
            for group, number in number_of.items()
        ]

    # Communities of items are named by the categories of their items. An item may have several.
    category = data.category_prior()
    item, category_of = data.prior_pairs(category.name, "item")
    community = np.empty(entities.num_rows, np.int64)
    community[entities["item"].to_numpy()] = partition.group
    about = named_by_category(community[item], category_of, category.groups)

    names = []
    for group, number in number_of.items():
        if group == OTHERS:
            names.append("others")
        elif about.get(group):
            names.append(f"{number + 1}: {about[group]}")
        else:
            names.append(f"community {number + 1}")
    return names
