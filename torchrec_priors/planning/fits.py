"""The smallest changes that make a request fit: each is tried with the planner, the cheapest kinds first."""

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
    """A change, in words and as options, and the plan that it allows."""

    says: str
    plan: TablesOnRanks


def smallest_changes(request: Request) -> list[Change]:
    """Changes of one thing alone that make it fit, the cheapest kind first, each the least of its kind: what costs
    nothing, what costs time, precision of the rows, machines, width of the rows. There is none where the dense model
    leaves no memory to tables."""
    if request.machine.memory <= request.reserved_bytes + request.dense_bytes:
        return []
    return [change for kind in _KINDS for change in kind(request)]


def plan_or_explain(request: Request) -> TablesOnRanks:
    """The plan.

    Raises:
        UserError: what does not fit, and the changes that would.
    """
    try:
        return plan(request)
    except DoesNotFit as lack:
        changes = smallest_changes(request)
        if not changes:
            raise UserError(
                f"{lack}; no change of ranks (up to {MOST_RANKS:,}), rows, kernel or batch alone helps"
            ) from None
        says = "; or ".join(change.says for change in changes)
        raise UserError(f"{lack}; what would fit, the smallest change first: {says}") from None


def check_any_fits(points: Sequence[Point]) -> None:
    """Raises UserError where nothing of a sweep fits, as `plan_or_explain` of what lacks least."""
    if not any(point.fits for point in points):
        plan_or_explain(min(points, key=lambda point: point.memory_share).plan.request)


def _fitting(request: Request) -> TablesOnRanks | None:
    try:
        return plan(request)
    except DoesNotFit:
        return None


def _row_wise(request: Request) -> Iterator[Change]:
    if any(request.sharding.type_of(table.name) != ROW_WISE for table in request.tables):
        every = replace(request.sharding, type=ROW_WISE, tables={}, columns=0)
        found = _fitting(replace(request, sharding=every))
        if found:
            yield Change("--sharding row_wise", found)


def _optimizer(request: Request) -> Iterator[Change]:
    if request.optimizer in ("adagrad", "adam"):
        found = _fitting(replace(request, optimizer="rowwise-adagrad"))
        if found:
            yield Change("--optimizer rowwise-adagrad", found)


def _accumulate(request: Request) -> Iterator[Change]:
    kept = request.activations
    if kept is not None:
        least = kept.accumulate + 1
        most = request.local_batch
        found = _smallest(least, most, lambda parts: request.with_activations(accumulate=parts))
        if found and found.request.activations:
            parts = found.request.activations.accumulate
            yield Change(
                f"--accumulate {parts} (training.accumulate) instead of {kept.accumulate}", found
            )


def _recompute(request: Request) -> Iterator[Change]:
    if request.activations is not None and not request.activations.recompute:
        found = _fitting(request.with_activations(recompute=True))
        if found:
            yield Change("--recompute (encoder.recompute)", found)


def _batch(request: Request) -> Iterator[Change]:
    batch = request.local_batch
    found = _largest(1, batch - 1, lambda fewer: replace(request, batch=fewer, global_batch=0))
    if found:
        yield Change(
            f"{found.request.batch:,} windows a rank (--batch) instead of {batch:,}", found
        )


def _host_memory(request: Request) -> Iterator[Change]:
    if request.machine.device == "cuda" and request.sharding.kernel == "fused":
        for kernel in ("fused_uvm_caching", "fused_uvm"):
            found = _fitting(replace(request, sharding=replace(request.sharding, kernel=kernel)))
            if found:
                host = in_gb(found.fullest.host)
                step = in_ms(found.slowest.step)
                yield Change(
                    f"--kernel {kernel} ({host} of host memory a rank, {step} a step)", found
                )
                return


def _half_rows(request: Request) -> Iterator[Change]:
    if request.rows == "fp32":
        found = _fitting(replace(request, rows="fp16"))
        if found:
            yield Change("--rows fp16", found)


def _ranks(request: Request) -> Iterator[Change]:
    """The fewest whole nodes, or ranks of a single one; of a table that has rows on every rank alone."""
    hopeless = (
        not request.global_batch and _fitting(request.with_items(1)) is None
    )  # what a rank looks up is too much
    if request.sharding.type not in (ROW_WISE, "auto") or hopeless:
        return
    per_node = request.machine.ranks_per_node
    step = per_node if request.ranks >= per_node else 1
    least = request.ranks // step + 1
    most = MOST_RANKS // step if step > 1 else per_node
    found = _smallest(least, most, lambda count: replace(request, ranks=count * step))
    if found is None and step == 1:
        step = per_node
        least = 2
        most = MOST_RANKS // per_node
        found = _smallest(least, most, lambda count: replace(request, ranks=count * step))
    if found:
        ranks = found.request.ranks
        nodes = f" ({ranks // per_node} nodes of {per_node})" if ranks > per_node else ""
        yield Change(f"--ranks {ranks}{nodes} instead of {request.ranks}", found)


def _dim(request: Request) -> Iterator[Change]:
    if request.sharding.columns:
        return  # which must divide it
    found = _largest(1, request.dim // 4 - 1, lambda fours: request.with_dim(4 * fours))
    if found:
        yield Change(f"--dim {found.request.dim} instead of {request.dim}", found)


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
    """The plan of the largest number in [least, most] that fits, where all smaller ones fit, too."""
    best = _fitting(request_of(least)) if least <= most else None
    while best is not None and least < most:
        middle = (least + most + 1) // 2
        found = _fitting(request_of(middle))
        if found:
            best = found
            least = middle
        else:
            most = middle - 1
    return best


def _smallest(least: int, most: int, request_of: Callable[[int], Request]) -> TablesOnRanks | None:
    """The plan of the smallest number in [least, most] that fits, where all larger ones fit, too."""
    fails = least - 1
    count = least
    while count <= most:
        best = _fitting(request_of(count))
        if best:
            break
        fails = count
        count = most if count < most < 2 * count else 2 * count
    else:
        return None
    while fails + 1 < count:
        middle = (fails + count) // 2
        found = _fitting(request_of(middle))
        if found:
            best = found
            count = middle
        else:
            fails = middle
    return best
