"""Writes plans as tables for users, and as JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from torchrec_priors.common.markdown import table_lines
from torchrec_priors.embedding.plan import Piece, TablePlan
from torchrec_priors.planning.counts import in_gb, in_ms, short
from torchrec_priors.planning.pays import Alternative, alternatives
from torchrec_priors.planning.planner import TablesOnRanks
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
_SWEEP_HEAD = (
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
_MOST_BLOCKS = 4  # sizes of pieces that the line of a table names


def show_plan(plan: TablesOnRanks) -> str:
    """Writes one plan: tables, memory of the fullest rank, time of the slowest, and the limits.

    It also says what other ways to send vectors would take.
    """
    request = plan.request
    machine = plan.request.machine
    nodes = -(-request.ranks // machine.ranks_per_node)
    lines = [
        f"{request.describe()} ({nodes} node{'s' if nodes > 1 else ''}), {request.rows}, "
        f"{request.optimizer}, {request.local_batch:,} windows a rank"
    ]
    lines += [f"  {_table_line(table)}" for table in plan.tables]

    memory = plan.fullest
    lines += ["", f"memory of the fullest of {request.ranks} ranks"]
    for name, label in _MEMORY.items():
        if name == "activations" and request.activations is None:
            lines.append(f"  {label:<28}{'not counted':>14}")
        else:
            lines.append(_amount_line(label, getattr(memory, name), machine.memory))
    free = machine.memory - memory.used - memory.reserved
    lines.append(_amount_line("free", free, machine.memory))
    lines.append(_amount_line(f"of the device ({machine.name})", machine.memory, machine.memory))
    if memory.host:
        lines.append(_amount_line("and of its host", memory.host, machine.host_memory))

    lines += _language_lines(plan)
    time = plan.slowest
    lines += ["", "time of a step in the tables, as TorchRec estimates it"]
    lines += [_time_line(label, getattr(time, name), time.step) for name, label in _TIME.items()]
    lines += [_time_line("in all", time.step, time.step), ""]
    lines.append(
        f"{plan.seconds_per_million:,.1f} device seconds for a million windows; {_limits(plan)}"
    )
    others = alternatives(plan)
    if others:
        lines += ["", "other ways to send vectors between ranks"]
        lines += [f"  {other.name}: {other.says}" for other in others]
    return "\n".join(lines)


def _language_lines(plan: TablesOnRanks) -> list[str]:
    """Writes sizes, activations and time of the language models; nothing without any."""
    request = plan.request
    if not request.language:
        return []

    copies = "of which every rank has a copy"
    if request.sharding.language_models:
        copies = f"divided among {request.ranks} ranks"
    lines = ["", f"language models, {copies}"]

    seconds = []
    for model in request.language:
        tokens = model.tokens(request.local_batch, request.ranks)
        trained = "frozen" if not model.trained else f"{short(model.trained)} trained"
        kept, recomputed = (
            in_gb(model.kept_bytes(tokens, recompute=recompute)) for recompute in (False, True)
        )
        lines.append(
            f"  {model.name}: {model.model_type}, {short(model.parameters)} parameters "
            f"({trained}, {in_gb(model.parameter_bytes)}); {tokens:,} tokens of a rank in a step, "
            f"{kept} kept for backward, {recomputed} if recomputed, "
            f"{model.operations(tokens):.3g} operations"
        )
        seconds.append(request.language_seconds(model))

    known = [time for time in seconds if time is not None]
    if len(known) < len(seconds):
        lines.append(
            f"  time of a step: not predicted, as the peak of {request.machine.name} is not known"
        )
    else:
        lines.append(
            f"  time of a step at {request.share_of_peak:.0%} of the peak: {in_ms(sum(known))}"
        )
    return lines


def show_sweep(points: Sequence[Point]) -> str:
    """Writes a sweep as a Markdown table."""
    return "\n".join(table_lines(_SWEEP_HEAD, [_sweep_cells(point) for point in points]))


def plan_as_json(plan: TablesOnRanks) -> str:
    """Writes one plan as JSON."""
    others = [_alternative_object(other) for other in alternatives(plan)]
    return json.dumps({**_plan_object(plan), "alternatives": others}, indent=1)


def sweep_as_json(points: Sequence[Point]) -> str:
    """Writes a sweep as JSON."""
    objects = [
        {"fits": point.fits, "memory_share": point.memory_share, **_plan_object(point.plan)}
        for point in points
    ]
    return json.dumps({"points": objects}, indent=1)


def _sweep_cells(point: Point) -> list[str]:
    """Writes a row of the sweep's table; without times if the plan does not fit."""
    plan = point.plan
    memory = plan.fullest
    cells = [
        short(plan.request.items),
        str(plan.request.ranks),
        in_gb(memory.table + memory.host),
        in_gb(memory.used),
        f"{point.memory_share:.0%}",
    ]
    if not point.fits:
        return [*cells, "", "", "", "no"]

    return [
        *cells,
        in_ms(plan.slowest.step),
        in_ms(plan.device_seconds),
        f"{plan.seconds_per_million:,.1f}",
        "yes",
    ]


def _plan_object(plan: TablesOnRanks) -> dict[str, Any]:
    """Returns a plan in bytes and seconds; neighbouring ranks with equal values share an entry."""
    # Of thousands of ranks most are equal, and an entry for each would be unreadable.
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
        "tables": [_table_object(table) for table in plan.tables],
        "ranks": ranks,
        "device_seconds_per_step": plan.device_seconds,
        "device_seconds_per_million_windows": plan.seconds_per_million,
        "limits": _limits(plan),
        "language": [
            {
                "name": model.name,
                "tokens": (tokens := model.tokens(plan.request.local_batch, plan.request.ranks)),
                "operations": model.operations(tokens),
                "seconds": plan.request.language_seconds(model),
            }
            for model in plan.request.language
        ],
    }


def _alternative_object(other: Alternative) -> dict[str, Any]:
    """Returns another way to send vectors; `seconds` is None if the tables do not fit."""
    return {"name": other.name, "seconds": other.step, "says": other.says}


def _table_object(plan: TablePlan) -> dict[str, Any]:
    """Returns the plan of a table. Names and order of the keys are part of the format."""
    return {
        "name": plan.table.name,
        "rows": plan.table.rows,
        "dim": plan.table.columns,
        "sharding": plan.type,
        "kernel": plan.kernel,
        "shards": [
            {
                "rank": piece.rank,
                "rows": piece.rows,
                "columns": piece.columns,
                "first_row": piece.first_row,
                "first_column": piece.first_column,
            }
            for piece in plan.pieces
        ],
    }


def _runs(values: Iterable[Any]) -> list[tuple[int, int, Any]]:
    """Returns (first, last, value) for each run of equal values."""
    runs = []
    first = 0
    for value, equal in groupby(values):
        last = first + len(list(equal)) - 1
        runs.append((first, last, value))
        first = last + 1
    return runs


def _table_line(plan: TablePlan) -> str:
    """Writes the plan of a table in one line."""
    blocks = [
        f"{_named(ranks)}: {rows:,} x {columns}" for ranks, (rows, columns) in _by_size(plan.pieces)
    ]
    text = "; ".join(blocks[:_MOST_BLOCKS])
    if len(blocks) > _MOST_BLOCKS:
        text += f"; and {len(blocks) - _MOST_BLOCKS} more"
    count = "1 shard" if len(plan.pieces) == 1 else f"{len(plan.pieces)} shards"
    return f"{plan.table.name}: {plan.type}, {plan.kernel}, {count} ({text})"


def _by_size(pieces: Sequence[Piece]) -> list[tuple[list[int], tuple[int, int]]]:
    """Returns ranks and [rows, columns] of neighbouring pieces that have the same size."""
    runs = groupby(pieces, key=lambda piece: (piece.rows, piece.columns))
    return [([piece.rank for piece in equal], size) for size, equal in runs]


def _named(ranks: list[int]) -> str:
    """Writes ranks as a range, or their number if they do not form a range."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]}-{ranks[-1]}"
    return f"{len(ranks)} ranks"


def _amount_line(label: str, size: int, whole: int) -> str:
    """Writes an amount of memory with its share of the whole."""
    return f"  {label:<28}{in_gb(size):>14}{size / whole:>8.1%}"


def _time_line(label: str, seconds: float, whole: float) -> str:
    """Writes a time with its share of the whole."""
    share = 0.0
    if whole:
        share = seconds / whole
    return f"  {label:<28}{seconds * 1000:>11.3f} ms{share:>8.1%}"


def _limits(plan: TablesOnRanks) -> str:
    """Names the part that takes most of the step, and the part that takes most of the memory."""
    request = plan.request
    time = plan.slowest
    memory = plan.fullest
    sent = 0.0
    if request.ranks > 1:
        sent = time.vectors + time.gradients

    if sent > time.step / 2:
        seconds = sent
        if request.ranks > request.machine.ranks_per_node:
            limit = "the network between nodes"
        else:
            limit = "the links within a node"
    else:
        seconds = time.step - sent
        limit = "the bandwidth of memory"

    share = seconds / time.step
    largest = max(_MEMORY, key=lambda name: getattr(memory, name))
    return f"limited by {limit} ({share:.0%} of the step); most memory: {_MEMORY[largest]}"
