"""Measures row-wise tables on this machine, and compares them with the planner's predictions."""

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
# Free memory must be at least this many times the size of the table, as buffers and other processes
# need memory, too.
_SPARE = 2


@dataclass(frozen=True)
class Measured:
    """Memory, time and bandwidths of a rank, or the worst values of all ranks of a case.

    Attributes:
        rows: the bytes by which the rank's memory grew while the table was made and its rows were
            written.
        step: the bytes by which the rank's peak grew in steps with a tiny table. They include
            ids, vectors, and everything else that TorchRec allocates.
        forward, backward: the seconds of the fastest step. Other work of the machine can only slow
            a step down.
        memory_bandwidth: the bytes per second that a copy reads and writes, while all ranks copy.
        link_bandwidth: the bytes per second of an all-to-all; 0 on one rank.
    """

    rows: int
    step: int
    forward: float
    backward: float
    memory_bandwidth: float
    link_bandwidth: float


@dataclass(frozen=True)
class Case:
    """A measured request, and the plan that is made with the measured bandwidths."""

    predicted: TablesOnRanks
    measured: Measured


def check_measurable(
    request: Request, items: Sequence[int], ranks: Sequence[int], repeats: int
) -> None:
    """Raises UserError if this machine cannot measure these requests."""
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {repeats}")
    cores = len(os.sched_getaffinity(0))
    free = free_memory()

    # The worker can only make tables with the default settings on CPUs.
    if request.machine.device != "cpu":
        raise UserError("--measure needs --device cpu: it measures the CPUs of this machine")
    if (
        request.sharding.type != "row_wise"
        or request.rows != "fp32"
        or request.optimizer != "rowwise-adagrad"
    ):
        raise UserError(
            "--measure supports only row-wise tables of fp32 with rowwise-adagrad: leave out other "
            "settings"
        )
    if len(request.tables) > 1:
        raise UserError("--measure supports only the item table: leave encoder.item_features out")
    if max(ranks) > cores:
        raise UserError(
            f"--measure: {max(ranks)} ranks need {max(ranks)} cores, and there are {cores}: "
            f"--ranks 1,{cores}"
        )

    table = max(items) * request.dim * 4
    if _SPARE * table > free:
        raise UserError(
            f"--measure: a table of {short(max(items))} x {request.dim} has {in_gb(table)}, more "
            f"than 1/{_SPARE} of the {in_gb(free)} of free memory: take fewer items"
        )


def free_memory() -> int:
    """Returns the bytes of memory that are available on this machine."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def measure(
    request: Request,
    items: Sequence[int],
    ranks: Sequence[int],
    repeats: int,
    threads: int,
    report: Callable[[str], None],
) -> list[Case]:
    """Measures all cases, one after another. Each rank is a process with some threads."""
    check_measurable(request, items, ranks, repeats)
    cases = []
    for count in ranks:
        for rows in items:
            # Only lookups are measured, so activations are left out.
            case = replace(request.with_items(rows), ranks=count, activations=None)
            report(f"{short(rows)} x {case.dim} on {count}")
            measured = _run(case, repeats, threads)

            # The prediction is for this machine, with its bandwidths while all ranks work.
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


def _run(request: Request, repeats: int, threads: int) -> Measured:
    """Measures one case; returns the worst values of all ranks."""
    table = request.tables[0]
    case = {
        "items": table.rows,
        "dim": table.dim,
        "batch": request.local_batch,
        "per_window": table.per_window,
        "more": request.lookups(table) - request.local_batch * table.per_window,
        "repeats": repeats,
        "threads": threads,
    }

    measured = results_of_ranks(
        Measured,
        request.ranks,
        request.describe(),
        "torchrec_priors.planning.worker",
        [json.dumps(case)],
        threads=threads,
    )

    # A step ends when the slowest rank has finished, and the fullest rank must fit.
    return Measured(
        rows=max(rank.rows for rank in measured),
        step=max(rank.step for rank in measured),
        forward=max(rank.forward for rank in measured),
        backward=max(rank.backward for rank in measured),
        memory_bandwidth=min(rank.memory_bandwidth for rank in measured),
        link_bandwidth=min(rank.link_bandwidth for rank in measured),
    )


def show_cases(cases: Sequence[Case]) -> str:
    """Writes measured and predicted values as a Markdown table.

    Below the table are the measured bandwidths, which the predictions use.
    """
    lines = table_lines(_HEAD, [_cells(case) for case in cases])
    for ranks in sorted({case.predicted.request.ranks for case in cases}):
        measured = [case.measured for case in cases if case.predicted.request.ranks == ranks]
        link = min(values.link_bandwidth for values in measured)
        between = ""
        if link:
            between = f", {link / 1e9:.2f} GB/s between them"
        copied = min(values.memory_bandwidth for values in measured)
        lines.append(f"\n{ranks} active: memory {copied / 1e9:.1f} GB/s each{between}")
    return "\n".join(lines)


def cases_as_json(cases: Sequence[Case]) -> str:
    """Writes measured and predicted values as JSON."""
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
    """Writes a row of the table: each measured value, followed by its prediction."""
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
