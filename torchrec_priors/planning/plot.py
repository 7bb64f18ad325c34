"""Draws a sweep: memory, time and cost by ranks, with a line for each number of items."""

from collections.abc import Sequence
from pathlib import Path

from torchrec_priors.common.files import check_replaceable, new_file
from torchrec_priors.errors import UserError, no_such_folder
from torchrec_priors.planning.counts import short
from torchrec_priors.planning.sweep import Point

_FORMATS = (".png", ".svg", ".pdf")


def check_plot(file: Path) -> None:
    """Raises UserError if the figure cannot be written. It is called before planning."""
    if file.suffix not in _FORMATS:
        raise UserError(f"--plot: '{file}' must end in {', '.join(_FORMATS)}")
    if not file.parent.is_dir():
        raise UserError(f"--plot: {no_such_folder(file.parent)}")
    check_replaceable(file)


def plot(points: Sequence[Point], file: Path) -> None:
    """Writes the figure. Plans that do not fit are hollow points, without time and cost."""
    from matplotlib.figure import Figure

    request = points[0].plan.request
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    memory, time, cost = panels = figure.subplots(1, 3)

    sizes = sorted({point.plan.request.items for point in points})
    for number, size in enumerate(sizes):
        line = [point for point in points if point.plan.request.items == size]
        fitting = [point for point in line if point.fits]
        lacking = [point for point in line if not point.fits]

        # Lines may overlap, so the points of earlier lines are larger.
        look = {"color": f"C{number}", "markersize": 3 + 1.5 * (len(sizes) - number)}
        memory.plot(_ranks(line), [_used(point) for point in line], color=look["color"], lw=0.8)
        memory.plot(
            _ranks(lacking),
            [_used(point) for point in lacking],
            "o",
            markerfacecolor="none",
            **look,
        )
        memory.plot(
            _ranks(fitting),
            [_used(point) for point in fitting],
            "o",
            label=f"{short(size)} items",
            **look,
        )
        time.plot(
            _ranks(fitting), [point.plan.slowest.step * 1000 for point in fitting], "o-", **look
        )
        cost.plot(_ranks(fitting), [point.plan.device_seconds for point in fitting], "o-", **look)

    available = (request.machine.memory - request.reserved_bytes) / 1e9
    memory.axhline(
        available,
        color="black",
        ls="--",
        lw=0.8,
        label=f"{request.machine.name}, without the reserved part",
    )
    # A sweep covers orders of magnitude in ranks, memory and cost.
    memory.set(title="memory of the fullest rank", ylabel="GB", yscale="log")
    time.set(title="time of a step in the tables", ylabel="ms", ylim=(0, None))
    cost.set(title="cost of a step: ranks x time", ylabel="device seconds", yscale="log")

    ranks = sorted(set(_ranks(points)))
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, [str(count) for count in ranks])
        axes.set_xlabel(f"ranks ({request.machine.name})")
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=len(sizes) + 1, fontsize="small")
    figure.suptitle(
        f"width {request.dim}, {request.rows}, {request.optimizer}, {request.sharding.type}; "
        "hollow: does not fit"
    )
    with new_file(file) as partial:
        figure.savefig(partial, dpi=110, format=file.suffix[1:])


def _used(point: Point) -> float:
    """Returns the memory of the fullest rank, in GB."""
    return point.plan.fullest.used / 1e9


def _ranks(points: Sequence[Point]) -> list[int]:
    return [point.plan.request.ranks for point in points]
