"""The prior that communities of a prepared data set's training log make."""

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

_FEW = 1 << 16  # members: their pairs are counted all at once
_PAIRS_A_ROW = 8  # pairs that are counted in the memory that a row of a log takes to be sorted


def communities(
    settings: GraphPrior | UserPrior,
    data: PreparedData,
    report: Report = lambda _: None,
    memory: str = MEMORY,
) -> Grouping:
    """Groups of items or users of a data set, from its training interactions alone.

    Args:
        memory: for counting who shares what; beyond it, that spills to disk beside the data.

    Raises:
        UserError: no two of them share anything in training, or a file that cannot be read.
    """
    report("counting who shares what")
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
            f"prior '{settings.name}': no two {_plural(settings)} share anything in training: no communities"
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
    """The entities in the order of their original ids, which is that of the graph's nodes; and the graph."""
    entities, members = _members(settings, engine, data)
    first = [0]
    if engine.value(members.count()) > _FEW:
        found = engine.to_arrow(
            expressions.ranges(members, "shared", engine.rows_a_bucket * _PAIRS_A_ROW)
        )
        first = found["first"].to_pylist()
    parts = []
    for number, (low, high) in enumerate(zip(first, [*first[1:], None], strict=True)):
        report(f"counting who shares what, {number + 1} of {len(first)}")
        near = expressions.near(members, "shared", low, high, settings.neighbours)
        parts.append(engine.materialise(f"near_{number}", near))
    edges = union(parts)
    if settings.neighbours is not None:
        edges = edges.distinct()  # both ends may keep one
    ends_1, ends_2, weight = _columns(engine, edges.order_by(["first", "second"]))
    ordered = engine.to_arrow(entities.order_by("node"))
    weight = weight.astype(np.float64) if settings.weighted else np.ones(len(weight))
    return ordered, Graph(ordered.num_rows, ends_1, ends_2, weight)


def _members(
    settings: GraphPrior | UserPrior, engine: DuckDB, data: PreparedData
) -> tuple[ir.Table, ir.Table]:
    """The entities with their `node`; and (node, shared): what each of them engaged with, or who with it."""
    files = dict.fromkeys(group.file for group in data.row_groups)
    sequences = [engine.table(f"sequences_{number}", [file]) for number, file in enumerate(files)]
    items = engine.table("catalogue", [data.file("items.parquet")]).select("item", "item_id")
    training = union(
        [
            engine.materialise(
                f"training_{number}",
                expressions.training(part, data.manifest.horizon, settings.last),
            )
            for number, part in enumerate(sequences)
        ]
    )
    if isinstance(settings, GraphPrior):
        entities = engine.materialise("entities", expressions.nodes(items, "item_id"))
        members = training.inner_join(entities, "item").select("node", shared="user_id")
    else:
        users = union([part.select("user_id") for part in sequences])
        entities = engine.materialise("entities", expressions.nodes(users, "user_id"))
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
    """The columns of a table, read in batches, as int64."""
    batches = [
        [batch[name].to_numpy().astype(np.int64) for name in table.columns]
        for batch in engine.batches(table, 1 << 20)
    ]
    return [
        np.concatenate([np.zeros(0, np.int64), *(batch[place] for batch in batches)])
        for place in range(len(table.columns))
    ]


def _grouping(
    settings: GraphPrior | UserPrior,
    data: PreparedData,
    entities: pa.Table,
    graph: Graph,
    partition: Partition,
) -> Grouping:
    """Groups numbered by size, then by smallest original id; that of the others stands among them."""
    numbers, first, sizes = np.unique(partition.group, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    place = {int(numbers[group]): number for number, group in enumerate(order)}
    names = _names(settings, data, entities, partition, place)
    group = pa.array(np.array([place[number] for number in partition.group.tolist()]), pa.int32())
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
        said=_said(settings, graph, partition),
    )


def _names(
    settings: GraphPrior | UserPrior,
    data: PreparedData,
    entities: pa.Table,
    partition: Partition,
    place: dict[int, int],
) -> list[str]:
    """By group number; every name but that of the others begins with the group's place from 1."""
    if isinstance(settings, UserPrior):
        return [
            f"users {number + 1}" if group != OTHERS else "other users"
            for group, number in place.items()
        ]
    category = data.category_prior()
    item, number_of = data.prior_pairs(category.name, "item")
    community = np.empty(entities.num_rows, np.int64)
    community[entities["item"].to_numpy()] = partition.group
    about = named_by_category(community[item], number_of, category.groups)
    return [
        "others"
        if group == OTHERS
        else f"{number + 1}: {about[group]}"
        if about.get(group)
        else f"community {number + 1}"
        for group, number in place.items()
    ]


def _said(settings: GraphPrior | UserPrior, graph: Graph, partition: Partition) -> list[str]:
    things = _plural(settings)
    edges = len(graph.weight)
    joined = len(graph.connected)
    counted = "all" if settings.last is None else f"the last {settings.last:,}"
    others = int((partition.group == OTHERS).sum())
    lines = [
        f"graph: {edges:,} edges between {joined:,} of {graph.nodes:,} {things},"
        f" from {counted} training interactions of each user",
        f"communities: {partition.found:,} at resolution {partition.resolution:.4g};"
        f" {partition.communities:,} of at least {settings.min_size:,} {things}, {others:,} {things} in none of these;"
        f" modularity {partition.modularity:.4f}",
    ]
    if settings.groups is not None and partition.groups != settings.groups:
        lines.append(
            f"--groups {settings.groups}: no resolution tried gives so many; {partition.groups} is the nearest"
        )
    return lines


def _plural(settings: GraphPrior | UserPrior) -> str:
    return f"{settings.entity.removesuffix('_id')}s"
