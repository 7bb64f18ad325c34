"""Accuracy against diversity: a scatter of all models, and sentences on diversity that is free."""

from collections.abc import Mapping
from dataclasses import replace

from torchrec_priors.experiments.statistics import LEVEL, Interval
from torchrec_priors.report.figure import Figure, Panel, Series
from torchrec_priors.report.gains import Gains, sign
from torchrec_priors.report.page_table import signed
from torchrec_priors.report.sections import Section
from torchrec_priors.report.standing import NAMED

_X = "entropy@10"
_Y = "ndcg@10"
_NEAR = 0.8  # of the best accuracy: models above it have a panel of their own


def diversity_figure(section: Section, gains: Mapping[str, Gains]) -> Figure | None:
    """Draws a point for each model; None if fewer than two models have both metrics."""
    series = []
    for row in section.rows:
        x = row.mean(_X)
        y = row.mean(_Y)
        if x is None or y is None:
            continue
        if row.label not in gains:
            series.append(Series(row.label, [x], [y]))
            continue
        overall = gains[row.label].overall
        low_x, high_x = _around(x, overall[_X])
        low_y, high_y = _around(y, overall[_Y])
        series.append(Series(row.label, [x], [y], [low_y], [high_y], [low_x], [high_x]))
    if len(series) < 2:
        return None
    # The best is first, so a model has the same colour in both panels.
    series.sort(key=lambda one: -one.y[0])

    caption = (
        "Models further up are more accurate, models further right recommend more diverse lists."
    )
    if gains:
        caption += (
            f" Bars: {LEVEL:.0%} intervals of the difference from “{section.reference.label}”, "
            "which itself has none."
        )
    title = "Accuracy against diversity"
    panels = [Panel("All models", f"{_X} (bits)", _Y, series, style="scatter")]

    # One weak model, such as popularity, pushes all others together.
    least = _NEAR * max(one.y[0] for one in series)
    near = [one for one in series if one.y[0] >= least]
    if 2 <= len(near) < len(series):
        panels.append(replace(panels[0], title="The most accurate models", series=near))
    return Figure("diversity", title, caption, panels)


def free_diversity(section: Section, gains: Mapping[str, Gains]) -> list[str]:
    """Names the models that are more diverse than the reference row and not less accurate.

    A model is not less accurate if the interval of its difference in ndcg@10 contains 0 or is above
    it. Controls are not named.
    """
    free = [
        row
        for row in section.rows
        if row.label in gains
        and not row.variant.control
        and sign(gains[row.label].overall[_Y]) >= 0
        and sign(gains[row.label].overall[_X]) > 0
    ]
    # The model that adds most diversity comes first.
    free.sort(key=lambda row: -gains[row.label].overall[_X].mean)
    if not free:
        return []

    named = "; ".join(
        f"“{row.label}” ({_X} {signed(gains[row.label].overall[_X], 3)} bits, "
        f"{_Y} {signed(gains[row.label].overall[_Y])})"
        for row in free[:NAMED]
    )
    if len(free) > NAMED:
        named += f" and {len(free) - NAMED} more"
    return [
        f"Diversity is free: more diverse than “{section.reference.label}”, and not "
        f"distinguishably less accurate: {named}."
    ]


def _around(value: float, difference: Interval) -> tuple[float, float]:
    """Returns the bounds of a difference, moved so that its mean is at a value."""
    return value + difference.low - difference.mean, value + difference.high - difference.mean
