"""Plans as people read them, and as JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from torchrec_priors.planning.counts import in_gb, in_ms, short
from torchrec_priors.planning.planner import PlannedShard, PlannedTable, TablesOnRanks
from torchrec_priors.planning.sweep import Point

_MEMORY = {
    "table": "rows",
    "optimizer": "optimizer state",
    "buffers": "ids and vectors of a step",
    "dense": "dense model",
    "activations": "activations of a step",
    "reserved": "reserved",
}
_TIME = {
    "lookup": "reading rows",
    "vectors": "sending vectors",
    "gradients": "sending gradients",
    "update": "updating rows",
}


def show_plan(plan: TablesOnRanks) -> str:
    """One plan: tables, memory of the fullest rank, time of the slowest, and what limits."""
    request = plan.request
    machine = plan.request.machine
    nodes = -(-request.ranks // machine.ranks_per_node)
    lines = [
        f"{request.describe()} ({nodes} node{'s' if nodes > 1 else ''}), {request.rows}, {request.optimizer}, "
        f"{request.local_batch:,} windows a rank"
    ]
    lines += [f"  {_table_line(table)}" for table in plan.tables]
    memory = plan.fullest
    lines += ["", f"memory of the fullest of {request.ranks} ranks"]
    for name, says in _MEMORY.items():
        counted = name != "activations" or request.activations is not None
        size = getattr(memory, name)
        lines.append(
            _amount(says, size, machine.memory) if counted else f"  {says:<28}{'not counted':>14}"
        )
    lines.append(_amount("free", machine.memory - memory.used - memory.reserved, machine.memory))
    lines.append(_amount(f"of the device ({machine.name})", machine.memory, machine.memory))
    if memory.host:
        lines.append(_amount("and of its host", memory.host, machine.host_memory))
    time = plan.slowest
    lines += ["", "time of a step in the tables, as TorchRec estimates it"]
    lines += [_time_line(says, getattr(time, name), time.step) for name, says in _TIME.items()]
    lines += [_time_line("in all", time.step, time.step), ""]
    lines.append(
        f"{plan.seconds_per_million:,.1f} device seconds for a million windows; {_limits(plan)}"
    )
    return "\n".join(lines)


def show_sweep(points: Sequence[Point]) -> str:
    """A sweep as a Markdown table."""
    head = (
        "items",
        "ranks",
        "rows",
        "memory a rank",
        "of a device",
        "step",
        "ranks x step",
        "device s / 1M windows",
        "fits",
    )
    lines = [_row(head), _row(["---"] * len(head))]
    for point in points:
        plan = point.plan
        memory = point.plan.fullest
        request = plan.request
        lines.append(
            _row(
                [
                    short(request.items),
                    str(request.ranks),
                    in_gb(memory.table + memory.host),
                    in_gb(memory.used),
                    f"{point.memory_share:.0%}",
                    in_ms(plan.slowest.step) if point.fits else "",
                    in_ms(plan.device_seconds) if point.fits else "",
                    f"{plan.seconds_per_million:,.1f}" if point.fits else "",
                    "yes" if point.fits else "no",
                ]
            )
        )
    return "\n".join(lines)


def plan_as_json(plan: TablesOnRanks) -> str:
    return json.dumps(_plan_object(plan), indent=1)


def sweep_as_json(points: Sequence[Point]) -> str:
    found = [
        {"fits": point.fits, "memory_share": point.memory_share, **_plan_object(point.plan)}
        for point in points
    ]
    return json.dumps({"points": found}, indent=1)


def _plan_object(plan: TablesOnRanks) -> dict[str, Any]:
    """Bytes and seconds; equal ranks and shards stand together."""
    ranks = [
        {
            "ranks": [first, last],
            "memory": asdict(memory),
            "seconds": asdict(time) | {"step": time.step},
        }
        for first, last, (memory, time) in _runs(zip(plan.memory_W, plan.time_W, strict=True))
    ]
    return {
        "request": {**asdict(plan.request), "local_batch": plan.request.local_batch},
        "tables": [asdict(table) for table in plan.tables],
        "ranks": ranks,
        "device_seconds_per_step": plan.device_seconds,
        "device_seconds_per_million_windows": plan.seconds_per_million,
        "limits": _limits(plan),
    }


def _runs(values: Iterable[Any]) -> list[tuple[int, int, Any]]:
    """(first, last, value) of neighbours that are equal."""
    found = []
    first = 0
    for value, same in groupby(values):
        last = first + len(list(same)) - 1
        found.append((first, last, value))
        first = last + 1
    return found


def _table_line(table: PlannedTable) -> str:
    where = [
        f"{_named(ranks)}: {rows:,} x {columns}"
        for ranks, (rows, columns) in _by_size(table.shards)
    ]
    shown = "; ".join(where[:4]) + (f"; and {len(where) - 4} more" if len(where) > 4 else "")
    count = "1 shard" if len(table.shards) == 1 else f"{len(table.shards)} shards"
    return f"{table.name}: {table.sharding}, {table.kernel}, {count} ({shown})"


def _by_size(shards: Sequence[PlannedShard]) -> list[tuple[list[int], tuple[int, int]]]:
    runs = groupby(shards, key=lambda shard: (shard.rows, shard.columns))
    return [([shard.rank for shard in same], size) for size, same in runs]


def _named(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    consecutive = ranks == list(range(ranks[0], ranks[-1] + 1))
    return f"ranks {ranks[0]}-{ranks[-1]}" if consecutive else f"{len(ranks)} ranks"


def _amount(says: str, size: int, whole: int) -> str:
    return f"  {says:<28}{in_gb(size):>14}{size / whole:>8.1%}"


def _time_line(says: str, seconds: float, whole: float) -> str:
    return f"  {says:<28}{seconds * 1000:>11.3f} ms{seconds / whole if whole else 0:>8.1%}"


def _limits(plan: TablesOnRanks) -> str:
    """What takes most of the step, and most of the memory."""
    request = plan.request
    time = plan.slowest
    memory = plan.fullest
    sent = time.vectors + time.gradients if request.ranks > 1 else 0.0
    link = (
        "the network between nodes"
        if request.ranks > request.machine.ranks_per_node
        else "the links within a node"
    )
    says, seconds = (
        (link, sent) if sent > time.step / 2 else ("the bandwidth of memory", time.step - sent)
    )
    largest = max(_MEMORY, key=lambda name: getattr(memory, name))
    return f"limited by {says} ({seconds / time.step:.0%} of the step); most memory: {_MEMORY[largest]}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
