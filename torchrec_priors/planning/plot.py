"""A sweep as a figure: memory, time and cost against ranks, a line for each number of items."""

from collections.abc import Sequence
from pathlib import Path

from torchrec_priors.errors import UserError
from torchrec_priors.planning.counts import short
from torchrec_priors.planning.sweep import Point

_FORMATS = (".png", ".svg", ".pdf")


def check_plot(file: Path) -> None:
    """Raises UserError where the figure could not be drawn, before anything is planned."""
    if file.suffix not in _FORMATS:
        raise UserError(f"--plot: '{file}' must end in {', '.join(_FORMATS)}")
    if not file.parent.is_dir():
        raise UserError(f"--plot: there is no folder '{file.parent}'")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError("--plot needs matplotlib: pip install 'torchrec-priors[plot]'") from error


def plot(points: Sequence[Point], file: Path) -> None:
    """Writes the figure; hollow points do not fit."""
    from matplotlib.figure import Figure

    request = points[0].plan.request
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    memory, time, cost = figure.subplots(1, 3)
    sizes = sorted({point.plan.request.items for point in points})
    for number, size in enumerate(sizes):
        line = [point for point in points if point.plan.request.items == size]
        fitting = [point for point in line if point.fits]
        look = {"color": f"C{number}", "label": f"{short(size)} items"}
        memory.plot(_ranks(line), [point.plan.fullest.used / 1e9 for point in line], color=look["color"], lw=0.8)
        memory.plot(_ranks(fitting), [point.plan.fullest.used / 1e9 for point in fitting], "o", **look)
        lacking = [point for point in line if not point.fits]
        hollow = {"color": look["color"], "markerfacecolor": "none"}
        memory.plot(_ranks(lacking), [point.plan.fullest.used / 1e9 for point in lacking], "o", **hollow)
        time.plot(_ranks(fitting), [point.plan.slowest.step * 1000 for point in fitting], "o-", **look)
        cost.plot(_ranks(fitting), [point.plan.seconds_per_million for point in fitting], "o-", **look)
    available = (request.machine.memory - request.reserved_bytes) / 1e9
    memory.axhline(available, color="black", ls="--", lw=0.8, label=f"{request.machine.name}, less what is reserved")
    for axes, title, unit in (
        (memory, "memory of the fullest rank", "GB"),
        (time, "step in the tables", "ms"),
        (cost, "cost of a million windows", "device seconds"),
    ):
        axes.set(title=title, ylabel=unit, xlabel=f"ranks ({request.machine.name})", yscale="log")
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
    memory.legend(fontsize="small")
    figure.suptitle(
        f"width {request.dim}, {request.rows}, {request.optimizer}, {request.sharding}; hollow: does not fit"
    )
    figure.savefig(file, dpi=150)


def _ranks(points: Sequence[Point]) -> list[int]:
    return [point.plan.request.ranks for point in points]
