"""Computes a prior from the communities in the training log of a prepared data set."""

from collections.abc import Callable

import duckdb
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from torchrec_priors.common.scratch import scratch_folder
from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.expressions import union
from torchrec_priors.preparation.engine.on_duckdb import MEMORY, DuckDB
from torchrec_priors.preparation.priors.communities import edges as expressions
from torchrec_priors.preparation.priors.communities.graph import Graph
from torchrec_priors.preparation.priors.communities.names import named_by_category
from torchrec_priors.preparation.priors.communities.search import (
    OTHERS,
    Partition,
    at_resolution,
    with_groups,
)
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.prepared.data_set import PreparedData

Report = Callable[[str], None]

# If `members` has at most this number of rows, all pairs are counted in one range.
_FEW = 1 << 16
# Counting this number of pairs takes as much memory as sorting one row of a log.
_PAIRS_A_ROW = 8
_ROWS_A_BATCH = 1 << 20


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
            entities, graph = _graph(settings, engine, data, report)
            engine.close()
    except (duckdb.IOException, duckdb.InvalidInputException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--data: '{data.folder}' cannot be read ({reason}): prepare the data set again"
        ) from error

    if not len(graph.weight):
        raise UserError(
            f"prior '{settings.name}': no two {_plural(settings)} share anything in training: "
            "no communities"
        )

    report(f"communities of {len(graph.weight):,} edges")
    if settings.groups is None:
        partition = at_resolution(
            graph, settings.resolution or 1.0, settings.min_size, settings.seed
        )
    else:
        partition = with_groups(graph, settings.groups, settings.min_size, settings.seed, report)

    return _grouping(settings, data, entities, graph, partition)


def _graph(
    settings: GraphPrior | UserPrior, engine: DuckDB, data: PreparedData, report: Report
) -> tuple[pa.Table, Graph]:
    """Returns a table of the items or users in the order of the nodes, and their graph."""
    entities, members = _members(settings, engine, data)

    # These are the first nodes of ranges that are small enough for their pairs to fit into memory.
    first = [0]
    if engine.value(members.count()) > _FEW:
        bounds = engine.to_arrow(
            expressions.ranges(members, "shared", engine.rows_a_bucket * _PAIRS_A_ROW)
        )
        first = bounds["first"].to_pylist()

    parts = []
    for number, (low, high) in enumerate(zip(first, [*first[1:], None], strict=True)):
        report(f"counting who shares what, {number + 1} of {len(first)}")
        near = expressions.near(members, "shared", low, high, settings.neighbours)
        parts.append(engine.materialise(f"near_{number}", near))

    edges = union(parts)
    if settings.neighbours is not None:
        # An edge appears twice if both of its ends kept it.
        edges = edges.distinct()
    # The result of Leiden depends on the order of the edges, so they are sorted.
    ends_1, ends_2, weight = _columns(engine, edges.order_by(["first", "second"]))
    ordered = engine.to_arrow(entities.order_by("node"))

    weight = weight.astype(np.float64)
    if not settings.weighted:
        weight = np.ones(len(weight))
    return ordered, Graph(ordered.num_rows, ends_1, ends_2, weight)


def _members(
    settings: GraphPrior | UserPrior, engine: DuckDB, data: PreparedData
) -> tuple[ir.Table, ir.Table]:
    """Returns the items or users with their `node`, and the table of (node, shared).

    If the nodes are items, `shared` is a user who interacted with the item. If the nodes are users,
    `shared` is an item with which the user interacted.
    """
    # `dict.fromkeys` removes repeats, so every file is read once.
    files = dict.fromkeys(group.file for group in data.row_groups)
    sequences = [engine.table(f"sequences_{number}", [file]) for number, file in enumerate(files)]
    items = engine.table("catalogue", [data.file("items.parquet")]).select("item", "item_id")

    parts = []
    for number, sequence in enumerate(sequences):
        part = expressions.training(sequence, data.manifest.horizon, settings.last)
        parts.append(engine.materialise(f"training_{number}", part))
    training = union(parts)

    if isinstance(settings, GraphPrior):
        entities = engine.materialise("entities", expressions.nodes(items, "item_id"))
        members = training.inner_join(entities, "item").select("node", shared="user_id")
    else:
        users = union([sequence.select("user_id") for sequence in sequences])
        entities = engine.materialise("entities", expressions.nodes(users, "user_id"))

        # Items are also numbered by original ids, because the draw depends on their numbers.
        shared = expressions.nodes(items, "item_id").select("item", shared="node")
        members = (
            training.inner_join(entities, "user_id")
            .inner_join(shared, "item")
            .select("node", "shared")
        )
        members = expressions.at_most(
            members, "node", "shared", settings.users_per_item, settings.seed
        )

    return entities, engine.materialise("members", members)


def _columns(engine: DuckDB, table: ir.Table) -> list[np.ndarray]:
    """Returns the columns of a table as int64, read in batches."""
    batches = [
        [batch[name].to_numpy().astype(np.int64) for name in table.columns]
        for batch in engine.batches(table, _ROWS_A_BATCH)
    ]
    return [
        np.concatenate([np.zeros(0, np.int64), *(batch[column] for batch in batches)])
        for column in range(len(table.columns))
    ]


def _grouping(
    settings: GraphPrior | UserPrior,
    data: PreparedData,
    entities: pa.Table,
    graph: Graph,
    partition: Partition,
) -> Grouping:
    """Turns a partition into groups, which are numbered by size.

    Equally large groups are numbered by their smallest original id. OTHERS is one of the groups.
    """
    numbers, first, sizes = np.unique(partition.group, return_index=True, return_counts=True)
    # Nodes are in the order of original ids, so `first` is the smallest id of a group.
    order = np.lexsort((first, -sizes))
    number_of = {int(numbers[group]): number for number, group in enumerate(order)}

    names = _names(settings, data, entities, partition, number_of)
    group = pa.array(
        np.array([number_of[number] for number in partition.group.tolist()]), pa.int32()
    )
    column = "item" if isinstance(settings, GraphPrior) else "user_id"
    table = pa.table({column: entities[column], "group": group}).sort_by(column)

    reached = {
        "reached_resolution": partition.resolution,
        "modularity": round(partition.modularity, 6),
    }
    return Grouping(
        kind=settings.kind,  # type: ignore[arg-type]
        groups=names,
        sizes=sizes[order].tolist(),
        table=table,
        made_by={**settings.recorded(), **reached},
        messages=_messages(settings, graph, partition),
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


def _messages(settings: GraphPrior | UserPrior, graph: Graph, partition: Partition) -> list[str]:
    """Returns lines for the user about the graph and its communities."""
    things = _plural(settings)
    edges = len(graph.weight)
    joined = len(graph.connected)
    counted = "all" if settings.last is None else f"the last {settings.last:,}"
    others = int((partition.group == OTHERS).sum())

    lines = [
        f"graph: {edges:,} edges between {joined:,} of {graph.nodes:,} {things},"
        f" from {counted} training interactions of each user",
        f"communities: {partition.found:,} at resolution {partition.resolution:.4g};"
        f" {partition.communities:,} of at least {settings.min_size:,} {things},"
        f" {others:,} {things} in none of these;"
        f" modularity {partition.modularity:.4f}",
    ]
    if settings.groups is not None and partition.groups != settings.groups:
        lines.append(
            f"--groups {settings.groups}: no resolution tried gives this number; "
            f"{partition.groups} is the nearest"
        )
    return lines


def _plural(settings: GraphPrior | UserPrior) -> str:
    return f"{settings.entity.removesuffix('_id')}s"
