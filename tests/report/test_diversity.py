"""Accuracy against diversity: every model is a named point, and what is free is said."""

import re
from dataclasses import replace

import pytest

from torchrec_priors.experiments.statistics import Interval
from torchrec_priors.report.diversity import diversity_figure, free_diversity
from torchrec_priors.report.draw import svg
from torchrec_priors.report.figure import Panel, Series
from torchrec_priors.report.gains import gains_of
from torchrec_priors.report.paper_figures import paper_figures
from torchrec_priors.report.training_curves import curves
from torchrec_priors.report.users import PerUser


@pytest.fixture(scope="module")
def gains(section):
    return gains_of(section, PerUser.of(section))


def test_every_model_is_a_point_with_the_intervals_of_its_differences(section, gains):
    figure = diversity_figure(section, gains)
    panel, best = figure.panels
    least = 0.8 * max(series.y[0] for series in panel.series)
    assert best.series == [series for series in panel.series if series.y[0] >= least]
    assert panel.style == "scatter"
    rows = sorted(section.rows, key=lambda row: -row.mean("ndcg@10"))
    assert [series.label for series in panel.series] == [row.label for row in rows]
    for series, row in zip(panel.series, rows, strict=True):
        assert (series.x, series.y) == ([row.mean("entropy@10")], [row.mean("ndcg@10")])
        if row is section.reference:
            assert not series.low
            continue
        overall = gains[row.label].overall
        assert series.high[0] - series.low[0] == pytest.approx(
            overall["ndcg@10"].high - overall["ndcg@10"].low
        )
        assert series.x_high[0] - series.x[0] == pytest.approx(
            overall["entropy@10"].high - overall["entropy@10"].mean
        )
    assert f"“{section.reference.label}”" in figure.caption
    lines = panel.table("key").lines
    assert {len(line.cells) for line in lines} == {5}


def test_without_intervals_there_are_points_alone(section):
    figure = diversity_figure(section, {})
    assert not any(series.low for series in figure.panels[0].series)
    assert "interval" not in figure.caption


def _with(gains, label, ndcg, entropy):
    """Gains in which one row has other differences, and no other row is more diverse."""
    changed = {}
    for name, gain in gains.items():
        overall = gain.overall | {"entropy@10": Interval(-0.1, -0.2, 0.0)}
        if name == label:
            overall |= {"ndcg@10": Interval(*ndcg), "entropy@10": Interval(*entropy)}
        changed[name] = replace(gain, overall=overall)
    return changed


@pytest.mark.parametrize(
    ("ndcg", "entropy", "is_free"),
    [
        ((0.01, -0.01, 0.03), (0.2, 0.1, 0.3), True),
        ((0.02, 0.01, 0.03), (0.2, 0.1, 0.3), True),
        ((-0.02, -0.03, -0.01), (0.2, 0.1, 0.3), False),
        ((0.02, 0.01, 0.03), (0.2, -0.1, 0.3), False),
    ],
)
def test_diversity_is_free_if_accuracy_does_not_fall(section, gains, ndcg, entropy, is_free):
    said = free_diversity(section, _with(gains, "genre", ndcg, entropy))
    assert bool(said) == is_free
    if is_free:
        assert "not distinguishably less accurate: “genre” (entropy@10 +0.200" in said[0]


def test_names_stand_at_their_points_where_there_is_room():
    apart = [Series(f"model {place}", [place], [place]) for place in range(3)]
    close = [Series(f"a long name of model {place}", [1 + place / 1e6], [1]) for place in range(20)]
    for series, fewest, most in ((apart, 3, 3), (close, 1, 10)):
        drawn = svg(Panel("title", "x", "y", series, style="scatter"), "key")
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
        # The legend has each name once.
        assert {one.label for one in series} <= set(texts)
        named = sum(texts.count(one.label) - 1 for one in series)
        assert fewest <= named <= most


def test_curves_and_lines_have_the_range_of_their_seeds(section):
    ndcg = next(panel for panel in curves(section).panels if panel.y_label == "ndcg@10")
    assert all(len(series.low) == len(series.y) == 4 for series in ndcg.series)
    figures = {figure.key: figure for figure in paper_figures(section)[0]}
    rows = {row.label: row for row in section.rows}
    [line] = figures["figure-7"].panels[0].series
    values = rows["lt-st-4"].values("ndcg@10")
    place = line.y.index(rows["lt-st-4"].mean("ndcg@10"))
    assert (line.low[place], line.high[place]) == (min(values), max(values))
    assert min(values) < max(values)
    by_group = figures["figure-3"].panels[0].series[1]
    assert all(
        low <= y <= high
        for low, y, high in zip(by_group.low, by_group.y, by_group.high, strict=True)
    )
