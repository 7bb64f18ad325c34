"""Finds the smallest changes that make a request fit; the planner has tried each of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torchrec_priors.errors import UserError
from torchrec_priors.planning.counts import in_gb, in_ms
from torchrec_priors.planning.planner import DoesNotFit, TablesOnRanks, plan
from torchrec_priors.planning.request import MOST_RANKS, Request
from torchrec_priors.planning.sweep import Point
from torchrec_priors.settings.sharding import ROW_WISE


@dataclass(frozen=True)
class Change:
    """A change that makes a request fit.

    Attributes:
        says: the change in words and as options.
        plan: the plan after the change.
    """

    says: str
    plan: TablesOnRanks


def smallest_changes(request: Request) -> list[Change]:
    """Returns changes of a single setting that make the request fit.

    For each setting, the smallest change is returned. The cheapest changes come first: changes that
    cost nothing, then time, precision of the rows, more machines, and width of the rows. No change
    helps if the dense model leaves no memory for tables.
    """
    if request.machine.memory <= request.reserved_bytes + request.dense_bytes:
        return []
    return [change for kind in _KINDS for change in kind(request)]


def plan_or_explain(request: Request) -> TablesOnRanks:
    """Returns the plan of a request.

    Raises:
        UserError: the request does not fit; the message lists the changes that make it fit.
    """
    try:
        return plan(request)
    except DoesNotFit as lack:
        changes = smallest_changes(request)
        if not changes:
            raise UserError(
                f"{lack}; no single change of the ranks (up to {MOST_RANKS:,}), the rows, the "
                "kernel or the batch makes it fit"
            ) from None
        listed = "; or ".join(change.says for change in changes)
        raise UserError(f"{lack}; what would fit, the smallest change first: {listed}") from None


def check_any_fits(points: Sequence[Point]) -> None:
    """Raises UserError if no point of a sweep fits; the message is about the closest point."""
    if not any(point.fits for point in points):
        plan_or_explain(min(points, key=lambda point: point.memory_share).plan.request)


def _fitting(request: Request) -> TablesOnRanks | None:
    """Returns the plan of a request, or None if it does not fit."""
    try:
        return plan(request)
    except DoesNotFit:
        return None


def _row_wise(request: Request) -> Iterator[Change]:
    """Tries row-wise sharding for all tables."""
    # Row-wise shards are the smallest. Settings of single tables would override the type, so they
    # are removed.
    if any(request.sharding.type_of(table.name) != ROW_WISE for table in request.tables):
        row_wise = replace(request.sharding, type=ROW_WISE, tables={}, columns=0)
        fitting = _fitting(replace(request, sharding=row_wise))
        if fitting:
            yield Change("--sharding row_wise", fitting)


def _optimizer(request: Request) -> Iterator[Change]:
    """Tries an optimizer with less state."""
    # These two keep state for every number of the table. sgd has no state.
    if request.optimizer in ("adagrad", "adam"):
        fitting = _fitting(replace(request, optimizer="rowwise-adagrad"))
        if fitting:
            yield Change("--optimizer rowwise-adagrad", fitting)


def _accumulate(request: Request) -> Iterator[Change]:
    """Tries to compute the batch in more parts."""
    activations = request.activations
    if activations is None:
        return

    fitting = _smallest(
        activations.accumulate + 1,
        request.local_batch,
        lambda parts: request.with_activations(accumulate=parts),
    )
    if fitting and fitting.request.activations:
        parts = fitting.request.activations.accumulate
        yield Change(
            f"--accumulate {parts} (training.accumulate) instead of {activations.accumulate}",
            fitting,
        )


def _recompute(request: Request) -> Iterator[Change]:
    """Tries to compute layers again in backward."""
    if request.activations is not None and not request.activations.recompute:
        fitting = _fitting(request.with_activations(recompute=True))
        if fitting:
            yield Change("--recompute (encoder.recompute)", fitting)


def _batch(request: Request) -> Iterator[Change]:
    """Tries a smaller batch."""
    batch = request.local_batch
    # The option --batch sets the batch of each rank, so a global batch is replaced by that.
    fitting = _largest(1, batch - 1, lambda fewer: replace(request, batch=fewer, global_batch=0))
    if fitting:
        yield Change(
            f"{fitting.request.batch:,} windows per rank (--batch) instead of {batch:,}", fitting
        )


def _host_memory(request: Request) -> Iterator[Change]:
    """Tries to keep the rows in the host's memory."""
    if request.machine.device != "cuda" or request.sharding.kernel != "fused":
        return

    # The kernel with a cache is faster but needs more memory, so it is tried first.
    for kernel in ("fused_uvm_caching", "fused_uvm"):
        fitting = _fitting(replace(request, sharding=replace(request.sharding, kernel=kernel)))
        if fitting:
            host = in_gb(fitting.fullest.host)
            step = in_ms(fitting.slowest.step)
            yield Change(
                f"--kernel {kernel} ({host} of host memory per rank, {step} a step)", fitting
            )
            return


def _half_rows(request: Request) -> Iterator[Change]:
    """Tries rows in fp16."""
    if request.rows == "fp32":
        fitting = _fitting(replace(request, rows="fp16"))
        if fitting:
            yield Change("--rows fp16", fitting)


def _ranks(request: Request) -> Iterator[Change]:
    """Tries more ranks: more ranks of one node, then whole nodes."""
    # If even a table of one row does not fit, the lookups of a rank need too much memory. With more
    # ranks they get smaller only if the batch is global. More ranks do not help either if a table
    # is not divided over all of them.
    hopeless = not request.global_batch and _fitting(request.with_items(1)) is None
    if request.sharding.type not in (ROW_WISE, "auto") or hopeless:
        return

    per_node = request.machine.ranks_per_node
    if per_node > 1 and request.ranks >= per_node:
        fitting = _fewest_nodes(request, request.ranks // per_node + 1)
    else:
        fitting = _smallest(
            request.ranks + 1, per_node, lambda count: replace(request, ranks=count)
        )
        if fitting is None:
            fitting = _fewest_nodes(request, 2)

    if fitting:
        ranks = fitting.request.ranks
        nodes = ""
        if ranks > per_node:
            nodes = f" ({ranks // per_node} nodes of {per_node})"
        yield Change(f"--ranks {ranks}{nodes} instead of {request.ranks}", fitting)


def _fewest_nodes(request: Request, least: int) -> TablesOnRanks | None:
    """Returns the plan with the smallest number of nodes, `least` or more, that fits."""
    per_node = request.machine.ranks_per_node
    return _smallest(
        least, MOST_RANKS // per_node, lambda nodes: replace(request, ranks=nodes * per_node)
    )


def _dim(request: Request) -> Iterator[Change]:
    """Tries narrower rows."""
    # The width must be a multiple of the columns of a shard, if these are set.
    if request.sharding.columns:
        return
    # FBGEMM's kernels take multiples of 4.
    fitting = _largest(1, request.dim // 4 - 1, lambda fours: request.with_dim(4 * fours))
    if fitting:
        yield Change(f"--dim {fitting.request.dim} instead of {request.dim}", fitting)


# The cheapest kind of change is first; see `smallest_changes`.
_KINDS = (
    _row_wise,
    _optimizer,
    _accumulate,
    _recompute,
    _batch,
    _host_memory,
    _half_rows,
    _ranks,
    _dim,
)


def _largest(least: int, most: int, request_of: Callable[[int], Request]) -> TablesOnRanks | None:
    """Returns the plan of the largest number in [least, most] that fits.

    It is assumed that all smaller numbers fit if a number fits.
    """
    if least > most:
        return None

    best = _fitting(request_of(least))
    while best is not None and least < most:
        middle = (least + most + 1) // 2
        fitting = _fitting(request_of(middle))
        if fitting:
            best = fitting
            least = middle
        else:
            most = middle - 1
    return best


def _smallest(least: int, most: int, request_of: Callable[[int], Request]) -> TablesOnRanks | None:
    """Returns the plan of the smallest number in [least, most] that fits.

    It is assumed that all larger numbers fit if a number fits.
    """
    # Plans of many ranks take long, so numbers are doubled until one fits. The last try is `most`.
    fails = least - 1
    count = least
    while count <= most:
        best = _fitting(request_of(count))
        if best:
            break
        fails = count
        if count < most < 2 * count:
            count = most
        else:
            count = 2 * count
    else:
        return None

    # Now `count` fits and `fails` does not, so the smallest number that fits is between them.
    while fails + 1 < count:
        middle = (fails + count) // 2
        fitting = _fitting(request_of(middle))
        if fitting:
            best = fitting
            count = middle
        else:
            fails = middle
    return best
