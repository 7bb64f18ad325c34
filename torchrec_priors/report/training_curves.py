"""Curves over training: the loss and the ndcg of every model, and the paper's Figure 2."""

from collections.abc import Sequence
from typing import Literal

from torchrec_priors.report import paper
from torchrec_priors.report.chart import chart
from torchrec_priors.report.figure import Figure, Panel, Series
from torchrec_priors.report.page_table import Lacking
from torchrec_priors.report.points import range_over_seeds
from torchrec_priors.report.sections import Row, Section

_ENTROPY = "validation/entropy@10"
_NDCG = "validation/ndcg@10"
_MOST_STEPS = 150  # points of a curve; of a longer one every n-th is kept, at most twice as many
_MOST_MARKERS = 25  # a longer curve is drawn as a line without markers


def curves(section: Section) -> Figure | None:
    """Draws the loss and the ndcg of every model; returns None if no run has a log."""
    rows = _trainings(section.rows)
    losses = [_over_training(row, "loss", name) for name, row in rows]
    ndcgs = [_over_training(row, _NDCG, name) for name, row in rows]
    losses = [series for series in losses if series.x]
    ndcgs = [series for series in ndcgs if series.x]

    panels = []
    # Runs that did not evaluate during the training have only a loss.
    if losses:
        panels.append(
            Panel("Loss over training", "training step", "loss (nats)", losses, style="lines")
        )
    if ndcgs:
        title = "ndcg@10 over training, validation"
        panels.append(Panel(title, "training step", "ndcg@10", ndcgs, style=_style(ndcgs)))
    if not panels:
        return None

    caption = (
        "Means over seeds; bars, of curves with few points: the lowest and the highest seed. "
        "Losses of models with different heads or horizons are on different scales: compare ndcg, "
        "not loss."
    )
    return Figure("curves", "Curves of the runs", caption, panels)


def figure_2(section: Section) -> Figure | Lacking:
    """Draws entropy over training, and entropy against accuracy."""
    rows = []
    entropies = []
    ndcgs = []
    for name, row in _trainings(section.rows):
        entropy = _over_training(row, _ENTROPY, name)
        if len(entropy.x) > 1:
            rows.append(row)
            entropies.append(entropy)
            ndcgs.append(_over_training(row, _NDCG, name))

    panels: list[Panel] = []
    if rows:
        against = [
            Series(entropy.label, ndcg.y, entropy.y)
            for entropy, ndcg in zip(entropies, ndcgs, strict=True)
        ]
        bits = "entropy@10 (bits)"
        panels = [
            Panel(
                "Entropy over training", "training step", bits, entropies, style=_style(entropies)
            ),
            Panel("Entropy against accuracy", "ndcg@10, validation", bits, against),
        ]
    return chart(paper.form("figure-2"), section, panels, rows)


def _trainings(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Returns a name and a row for each training, whose evaluations share the same curve."""
    by_runs: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        runs = tuple(str(result.run.path) for result in row.results)
        by_runs.setdefault(runs, []).append(row)

    named = []
    for evaluations in by_runs.values():
        name = evaluations[0].label
        if len(evaluations) > 1:
            name += f" and {len(evaluations) - 1} more of this training"
        named.append((name, evaluations[0]))
    return named


def _over_training(row: Row, metric: str, label: str) -> Series:
    """Averages a metric over seeds, at the steps that the largest number of seeds has."""
    by_step: dict[int, list[float]] = {}
    for result in row.results:
        for line in result.log:
            if line.get(metric) is not None:
                by_step.setdefault(line["step"], []).append(line[metric])

    # Where a seed has stopped early, the mean of the others would jump.
    most = max(map(len, by_step.values()), default=0)
    steps = sorted(step for step, values in by_step.items() if len(values) == most)
    # More steps would make the page large without being visible.
    steps = steps[:: max(1, len(steps) // _MOST_STEPS)]
    values = [by_step[step] for step in steps]
    means = [sum(of_seeds) / len(of_seeds) for of_seeds in values]
    # Bars at every step of a long curve would hide it.
    if len(steps) > _MOST_MARKERS:
        return Series(label, steps, means)
    return Series(label, steps, means, *range_over_seeds(values))


def _style(series: Sequence[Series]) -> Literal["points", "lines"]:
    longest = max((len(line.x) for line in series), default=0)
    return "points" if longest <= _MOST_MARKERS else "lines"
