"""Says what would shorten the time in which ranks exchange vectors, and whether it pays.

    smaller numbers   vectors and gradients are sent with 16 bits (`sharding.communication`). The
                      planner is asked again
    2D sharding       every node has all tables, so that no vectors leave it, and the nodes average
                      rows and optimizer state after a step (TorchRec's `DMPCollection`). The
                      planner is asked for one node; the average is an all-reduce of what a rank
                      holds, 2 (G - 1) / G times its bytes over the network, for G nodes

Nothing here changes a plan. Training has no 2D sharding (docs/decisions/52-no-2d-sharding.md); the
estimate shows whether that costs anything.
"""

import math
from dataclasses import dataclass, replace

from torchrec_priors.errors import UserError
from torchrec_priors.planning.counts import in_gb, in_ms
from torchrec_priors.planning.planner import DoesNotFit, TablesOnRanks, plan
from torchrec_priors.planning.request import Request

# Types of the numbers that are sent, by device: gloo sends no bf16.
_SMALLER = {"cuda": "bf16", "cpu": "fp16"}


@dataclass(frozen=True)
class Alternative:
    """Another way to exchange vectors.

    Attributes:
        name: what would change.
        step: the seconds of a step in the tables; None if the tables do not fit.
        says: the result in words.
    """

    name: str
    step: float | None
    says: str


def alternatives(planned: TablesOnRanks) -> list[Alternative]:
    """Returns the alternatives of a plan; none if a single rank needs no exchange."""
    request = planned.request
    if request.ranks == 1:
        return []
    found = []
    if request.sharding.communication == "fp32":
        found.append(_smaller_numbers(planned))
    if request.ranks > request.machine.ranks_per_node:
        found.append(_two_dimensions(planned))
    return found


def _smaller_numbers(planned: TablesOnRanks) -> Alternative:
    """Asks the planner for a plan that sends numbers of 16 bits."""
    request = planned.request
    sent = _SMALLER[request.machine.device]
    name = f"sharding.communication={sent}"
    try:
        smaller = plan(
            replace(request, sharding=replace(request.sharding, communication=sent))
        ).slowest.step
    except (DoesNotFit, UserError) as error:
        return Alternative(name, None, f"does not fit: {error}")
    return Alternative(name, smaller, _compared(smaller, planned.slowest.step))


def _two_dimensions(planned: TablesOnRanks) -> Alternative:
    """Compares the plan with whole tables on every node, which are averaged after each step."""
    request = planned.request
    nodes = request.ranks // request.machine.ranks_per_node
    name = "all tables on every node (2D)"
    try:
        node = plan(_of_one_node(request))
    except (DoesNotFit, UserError):
        return Alternative(name, None, "does not fit into a node")

    memory = max(node.memory_W, key=lambda memory: memory.table + memory.optimizer + memory.host)
    held = memory.table + memory.optimizer + memory.host
    averaged = 2 * (nodes - 1) / nodes * held / request.machine.network_bandwidth
    step = node.slowest.step + averaged
    before = planned.slowest.step
    says = _compared(step, before)
    if step >= before:
        says = f"does not pay: {says}"
        saved = before - node.slowest.step
        if saved > 0:
            says += (
                f"; it would only if rows were averaged every {math.ceil(averaged / saved)} steps"
            )
    return Alternative(
        name,
        step,
        f"{says} ({in_ms(averaged)} of it to average {in_gb(held)} a rank over {nodes} nodes)",
    )


def _of_one_node(request: Request) -> Request:
    """Returns the request of one node, whose ranks have as many lookups as before."""
    ranks = request.machine.ranks_per_node
    tables = tuple(
        replace(table, per_step=-(-table.per_step * ranks // request.ranks))
        for table in request.tables
    )
    return replace(request, tables=tables, ranks=ranks, batch=request.local_batch, global_batch=0)


def _compared(step: float, before: float) -> str:
    return f"{in_ms(step)} a step instead of {in_ms(before)}"
