"""Gains by group of users and by group of items, as plots."""

from collections.abc import Mapping

from torchrec_priors.report.figure import Figure, Panel, Series
from torchrec_priors.report.gains import Gain, Gains
from torchrec_priors.report.sections import Section

_MODELS = 4  # models in a panel: the ones with the largest overall gain
_GROUPS = 12  # groups in a panel: the largest ones


def group_figure(section: Section, gains: Mapping[str, Gains]) -> Figure | None:
    """Draws differences in ndcg@10 with intervals, by group of users and by category.

    Returns:
        the figure; None if no model with priors has gains or there are no groups.
    """
    ours = [row.label for row in section.rows if row.label in gains and row.variant.ours]
    labels = sorted(ours, key=lambda label: -gains[label].overall["ndcg@10"].mean)[:_MODELS]
    if not labels:
        return None

    panels = []
    # All models have the same groups.
    for prior in gains[labels[0]].user_groups:
        columns = {label: gains[label].user_groups[prior] for label in labels}
        panels.append(_panel(f"Groups of users: {prior}", prior, columns))
    if section.data is not None and gains[labels[0]].item_groups:
        category = section.data.manifest.category_prior
        columns = {label: gains[label].item_groups for label in labels}
        panels.append(_panel(f"Targets by {category}", category, columns))
    if not panels:
        return None

    caption = (
        f"Difference in ndcg@10 to “{section.reference.label}” with 95% intervals over users and "
        f"seeds, of the {len(labels)} priors that gain most overall; the {_GROUPS} largest "
        "groups, the largest first."
    )
    return Figure("who", "Who gains, and for which items", caption, panels)


def _panel(title: str, x_label: str, columns: Mapping[str, list[Gain]]) -> Panel:
    """Makes a panel with a place on the x axis for each group and a colour for each model.

    Args:
        columns: label of the model -> its gains; all models have the same groups.
    """
    groups = next(iter(columns.values()))
    order = sorted(range(len(groups)), key=lambda number: -groups[number].users)[:_GROUPS]

    series = []
    for label, gains in columns.items():
        intervals = [gains[number].interval for number in order]
        means = [interval.mean for interval in intervals]
        lows = [interval.low for interval in intervals]
        highs = [interval.high for interval in intervals]
        series.append(Series(label, range(len(order)), means, lows, highs))

    return Panel(
        title,
        f"{x_label}, largest first",
        "difference in ndcg@10",
        series,
        [groups[number].of for number in order],
        "dots",
        zero=True,
    )
