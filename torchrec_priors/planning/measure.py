"""What was predicted for this machine, beside what it does: real row-wise tables, lookups forward and backward."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torchrec_priors.bench.on_ranks import last_lines
from torchrec_priors.errors import UserError
from torchrec_priors.planning.counts import in_gb, in_ms, short
from torchrec_priors.planning.planner import TablesOnRanks, plan
from torchrec_priors.planning.request import Request

_HEAD = (
    "items",
    "ranks",
    "rows",
    "predicted",
    "a step",
    "predicted",
    "forward",
    "predicted",
    "backward",
    "predicted",
)
_SPARE = 2  # times the table's memory must be free here


@dataclass(frozen=True)
class Measured:
    """What the slowest rank of a case took, and what its machine can do with so many ranks at work.

    Attributes:
        rows: bytes by which making the table and writing its rows raised what a rank has in memory.
        step: bytes by which steps of a tiny table raised its peak before: ids and vectors, and what TorchRec allocates.
        forward, backward: seconds of the fastest step: what else the machine does only adds to it.
        memory_bandwidth: bytes a second that a copy reads and writes, on all ranks at once.
        link_bandwidth: bytes a second of an all-to-all; 0 on one rank.
    """

    rows: int
    step: int
    forward: float
    backward: float
    memory_bandwidth: float
    link_bandwidth: float


@dataclass(frozen=True)
class Case:
    """One measured request, and its plan with the bandwidths that were measured."""

    predicted: TablesOnRanks
    measured: Measured


def check_measurable(
    request: Request, items: Sequence[int], ranks: Sequence[int], repeats: int
) -> None:
    """Raises UserError where this machine cannot do what is asked."""
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {repeats}")
    cores = len(os.sched_getaffinity(0))
    free = free_memory()
    if request.machine.device != "cpu":
        raise UserError("--measure needs --device cpu: it measures this machine's")
    if (
        request.sharding.type != "row_wise"
        or request.rows != "fp32"
        or request.optimizer != "rowwise-adagrad"
    ):
        raise UserError(
            "--measure does row-wise tables of fp32 with rowwise-adagrad: leave other settings out"
        )
    if len(request.tables) > 1:
        raise UserError("--measure does the item table alone: leave encoder.item_features out")
    if max(ranks) > cores:
        raise UserError(
            f"--measure: {max(ranks)} ranks need as many cores, and there are {cores}: --ranks 1,{cores}"
        )
    table = max(items) * request.dim * 4
    if _SPARE * table > free:
        raise UserError(
            f"--measure: a table of {short(max(items))} x {request.dim} has {in_gb(table)}, and here are {in_gb(free)} "
            f"free, of which it may take one part in {_SPARE}: take fewer items"
        )


def free_memory() -> int:
    """Bytes that processes of this machine can still take."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def measure(
    request: Request,
    items: Sequence[int],
    ranks: Sequence[int],
    repeats: int,
    report: Callable[[str], None],
) -> list[Case]:
    """All cases, one after another, each rank a process of one thread."""
    check_measurable(request, items, ranks, repeats)
    cases = []
    for count in ranks:
        for rows in items:
            one = replace(
                request.with_items(rows), ranks=count, activations=None
            )  # it does lookups alone
            report(f"{short(rows)} x {one.dim} on {count}")
            measured = _run(one, repeats)
            machine = replace(
                one.machine,
                name="this machine",
                ranks_per_node=count,
                memory=free_memory() // count,
                memory_bandwidth=int(measured.memory_bandwidth),
                node_bandwidth=int(measured.link_bandwidth) or one.machine.node_bandwidth,
            )
            cases.append(Case(plan(replace(one, machine=machine, reserve=0.0)), measured))
    return cases


def _run(request: Request, repeats: int) -> Measured:
    table = request.tables[0]
    case = {
        "items": table.rows,
        "dim": table.dim,
        "batch": request.local_batch,
        "per_window": table.per_window,
        "more": request.lookups(table) - request.local_batch * table.per_window,
        "repeats": repeats,
    }
    lines = last_lines(
        request.ranks, request.describe(), "torchrec_priors.planning.worker", [json.dumps(case)], 1
    )
    found = [Measured(**json.loads(line)) for line in lines]
    return Measured(
        rows=max(one.rows for one in found),
        step=max(one.step for one in found),
        forward=max(one.forward for one in found),
        backward=max(one.backward for one in found),
        memory_bandwidth=min(one.memory_bandwidth for one in found),
        link_bandwidth=min(one.link_bandwidth for one in found),
    )


def show_cases(cases: Sequence[Case]) -> str:
    """Measured beside predicted, as a Markdown table, and the bandwidths that the predictions are from."""
    lines = [_row(_HEAD), _row(["---"] * len(_HEAD))]
    for case in cases:
        request = case.predicted.request
        memory = case.predicted.fullest
        seconds = case.predicted.slowest
        measured = case.measured
        cells = [
            short(request.items),
            str(request.ranks),
            in_gb(measured.rows),
            in_gb(memory.table + memory.optimizer),
        ]
        cells += [in_gb(measured.step), in_gb(memory.buffers)]
        cells += [in_ms(measured.forward), in_ms(seconds.lookup + seconds.vectors)]
        cells += [in_ms(measured.backward), in_ms(seconds.gradients + seconds.update)]
        lines.append(_row(cells))
    for ranks in sorted({case.predicted.request.ranks for case in cases}):
        of = [case.measured for case in cases if case.predicted.request.ranks == ranks]
        link = min(one.link_bandwidth for one in of)
        between = f", {link / 1e9:.2f} GB/s between them" if link else ""
        copied = min(one.memory_bandwidth for one in of)
        lines.append(f"\n{ranks} at work: memory {copied / 1e9:.1f} GB/s each{between}")
    return "\n".join(lines)


def cases_as_json(cases: Sequence[Case]) -> str:
    found = [
        {
            "items": case.predicted.request.items,
            "ranks": case.predicted.request.ranks,
            "measured": asdict(case.measured),
            "predicted": {
                "memory": asdict(case.predicted.fullest),
                "seconds": asdict(case.predicted.slowest),
            },
        }
        for case in cases
    ]
    return json.dumps({"cases": found}, indent=1)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
