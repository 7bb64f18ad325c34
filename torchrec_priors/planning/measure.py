"""Predicted and measured values of this machine: row-wise tables, lookups forward and backward."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torchrec_priors.bench.timed import results_of_ranks
from torchrec_priors.common.markdown import table_lines
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
# Free memory must be this many times the table's: steps need buffers, and others need memory, too.
_SPARE = 2


@dataclass(frozen=True)
class Measured:
    """What the slowest rank of a case took, and what its machine can do with all ranks at work.

    Attributes:
        rows: bytes that making the table and writing its rows added to a rank's memory.
        step: bytes that steps of a tiny table added to a rank's peak before: ids and vectors, and
            what TorchRec allocates.
        forward, backward: seconds of the fastest step, since what else the machine does only adds.
        memory_bandwidth: bytes per second that a copy reads and writes, on all ranks at once.
        link_bandwidth: bytes per second of an all-to-all; 0 on one rank.
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
    """Raises UserError if this machine cannot do what is requested."""
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {repeats}")
    cores = len(os.sched_getaffinity(0))
    free = free_memory()

    # The worker makes only the tables that runs on CPUs have by default.
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
        raise UserError("--measure does only the item table: leave encoder.item_features out")
    if max(ranks) > cores:
        raise UserError(
            f"--measure: {max(ranks)} ranks need as many cores, and there are {cores}: "
            f"--ranks 1,{cores}"
        )

    table = max(items) * request.dim * 4
    if _SPARE * table > free:
        raise UserError(
            f"--measure: a table of {short(max(items))} x {request.dim} has {in_gb(table)}, and "
            f"here are {in_gb(free)} free, of which it may take one part in {_SPARE}: take fewer "
            "items"
        )


def free_memory() -> int:
    """Returns the bytes that processes of this machine can still take."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def measure(
    request: Request,
    items: Sequence[int],
    ranks: Sequence[int],
    repeats: int,
    report: Callable[[str], None],
) -> list[Case]:
    """Measures all cases, one after another, each rank in a process of one thread."""
    check_measurable(request, items, ranks, repeats)
    cases = []
    for count in ranks:
        for rows in items:
            # Activations are left out, since only lookups are measured.
            case = replace(request.with_items(rows), ranks=count, activations=None)
            report(f"{short(rows)} x {case.dim} on {count}")
            measured = _run(case, repeats)

            # The prediction is for this machine: its bandwidths with as many ranks at work.
            machine = replace(
                case.machine,
                name="this machine",
                ranks_per_node=count,
                memory=free_memory() // count,
                memory_bandwidth=int(measured.memory_bandwidth),
                node_bandwidth=int(measured.link_bandwidth) or case.machine.node_bandwidth,
            )
            cases.append(Case(plan(replace(case, machine=machine, reserve=0.0)), measured))
    return cases


def _run(request: Request, repeats: int) -> Measured:
    """Measures one case: what its worst rank took."""
    table = request.tables[0]
    case = {
        "items": table.rows,
        "dim": table.dim,
        "batch": request.local_batch,
        "per_window": table.per_window,
        "more": request.lookups(table) - request.local_batch * table.per_window,
        "repeats": repeats,
    }

    measured = results_of_ranks(
        Measured,
        request.ranks,
        request.describe(),
        "torchrec_priors.planning.worker",
        [json.dumps(case)],
        threads=1,
    )

    # A step ends with its slowest rank, and the plan is that of the fullest one.
    return Measured(
        rows=max(rank.rows for rank in measured),
        step=max(rank.step for rank in measured),
        forward=max(rank.forward for rank in measured),
        backward=max(rank.backward for rank in measured),
        memory_bandwidth=min(rank.memory_bandwidth for rank in measured),
        link_bandwidth=min(rank.link_bandwidth for rank in measured),
    )


def show_cases(cases: Sequence[Case]) -> str:
    """Returns measured and predicted values as a Markdown table.

    The bandwidths that the predictions are made with follow below it.
    """
    lines = table_lines(_HEAD, [_cells(case) for case in cases])
    for ranks in sorted({case.predicted.request.ranks for case in cases}):
        measured = [case.measured for case in cases if case.predicted.request.ranks == ranks]
        link = min(values.link_bandwidth for values in measured)
        between = ""
        if link:
            between = f", {link / 1e9:.2f} GB/s between them"
        copied = min(values.memory_bandwidth for values in measured)
        lines.append(f"\n{ranks} at work: memory {copied / 1e9:.1f} GB/s each{between}")
    return "\n".join(lines)


def cases_as_json(cases: Sequence[Case]) -> str:
    objects = [
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
    return json.dumps({"cases": objects}, indent=1)


def _cells(case: Case) -> list[str]:
    """Returns a row of the table: each measured value with its prediction after it."""
    request = case.predicted.request
    memory = case.predicted.fullest
    seconds = case.predicted.slowest
    measured = case.measured

    return [
        short(request.items),
        str(request.ranks),
        in_gb(measured.rows),
        in_gb(memory.table + memory.optimizer),
        in_gb(measured.step),
        in_gb(memory.buffers),
        in_ms(measured.forward),
        in_ms(seconds.lookup + seconds.vectors),
        in_ms(measured.backward),
        in_ms(seconds.gradients + seconds.update),
    ]
