"""Computes the graph of items or users from the training interactions of a prepared data set."""

from collections.abc import Callable
from dataclasses import dataclass

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from torchrec_priors.preparation.build.expressions import union
from torchrec_priors.preparation.engine.on_duckdb import DuckDB
from torchrec_priors.preparation.priors.communities import edges as expressions
from torchrec_priors.preparation.priors.communities.graph import Graph
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior
from torchrec_priors.prepared.data_set import PreparedData

Report = Callable[[str], None]

# If `members` has at most this number of rows, all pairs are counted in one range.
_FEW = 1 << 16
# Counting this number of pairs takes as much memory as sorting one row of a log.
_PAIRS_A_ROW = 8
_ROWS_A_BATCH = 1 << 20


@dataclass(frozen=True)
class LogGraph:
    """The graph of a log.

    Attributes:
        graph: the graph.
        entities: the items or users in the order of the nodes.
        unrelated: the number of pairs that share users or items, but no more often than by
            chance. They have no edge.
    """

    graph: Graph
    entities: pa.Table
    unrelated: int


def log_graph(
    settings: GraphPrior | UserPrior, engine: DuckDB, data: PreparedData, report: Report
) -> LogGraph:
    """Computes the graph of the items or users of a data set."""
    entities, members = _members(settings, engine, data)
    occurrences = engine.materialise(
        "occurrences", expressions.occurrences(members, "shared").order_by("node")
    )
    weights = expressions.Weight(
        settings.weights, occurrences, engine.value(members["shared"].nunique())
    )

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
        near = expressions.near(members, "shared", low, high, settings.neighbours, weights)
        parts.append(engine.materialise(f"near_{number}", near))

    edges = union(parts)
    if settings.neighbours is not None:
        # An edge appears twice if both of its ends kept it.
        edges = edges.distinct()
    # The result of Leiden depends on the order of the edges, so they are sorted.
    ends_1, ends_2, weight = _columns(engine, edges.order_by(["first", "second"]))
    ordered = engine.to_arrow(entities.order_by("node"))

    interactions = np.zeros(ordered.num_rows)
    node, of_node = _columns(engine, occurrences)
    interactions[node] = of_node

    if settings.weights == "equal":
        weight = np.ones(len(weight))
    related = weight > 0
    graph = Graph(
        ordered.num_rows,
        ends_1[related],
        ends_2[related],
        weight[related].astype(np.float64),
        interactions,
    )
    return LogGraph(graph, ordered, int((~related).sum()))


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
    """Returns the columns of a table as int64 or float64, read in batches."""
    kinds = [np.float64 if kind.is_floating() else np.int64 for kind in table.schema().values()]
    batches = [
        [
            batch[name].to_numpy().astype(kind)
            for name, kind in zip(table.columns, kinds, strict=True)
        ]
        for batch in engine.batches(table, _ROWS_A_BATCH)
    ]
    return [
        np.concatenate([np.zeros(0, kind), *(batch[column] for batch in batches)])
        for column, kind in enumerate(kinds)
    ]
