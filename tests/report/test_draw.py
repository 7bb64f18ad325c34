"""Names of runs, priors and groups are shown as they are, whatever they are made of."""

import re
import warnings
from html import unescape

import pytest

from torchrec_priors.report.draw import svg
from torchrec_priors.report.figure import Panel, Series

NAMES = (
    "$x^2$", "a $ b", "$\\frac{1}{", "_hidden", "__", "{0}", "%s", "<b>&amp;", '" id="x', "#0a0000", "url(#x)",
    "\\alpha", "日本語 😀", "مرحبا", "--> <!--",
)  # fmt: skip


def _texts(drawn):
    return [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawn)]


@pytest.mark.parametrize("style", ["lines", "points", "dots"])
def test_names_are_drawn_as_they_are(style):
    series = [
        Series(name, [0, 1], [1, 2], *([[0, 1], [2, 3]] if style == "dots" else []))
        for name in NAMES
    ]
    ticks = ["_$a$", "<i>"] if style == "dots" else []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = svg(Panel("$title", "_$x", "$y {", series, ticks, style=style), "key")
    texts = _texts(drawn)
    assert {*NAMES, "_$x", "$y {", *ticks} <= set(texts)
    assert len(re.findall(r"<svg", drawn)) == 1


def test_the_legend_gives_each_series_its_own_colour():
    """Also if only some of the series have intervals."""
    series = [
        Series("with", [0], [1], [0], [2]),
        Series("without", [1], [1]),
        Series("also with", [2], [1], [0], [2]),
    ]
    drawn = svg(Panel("title", "x", "y", series), "key")
    legend = drawn[drawn.index('id="key-legend_1"') :]
    colours = [
        re.findall(r"series-(\d)", part)[-1] for part in re.split(r"<text[^>]*>", legend)[:-1]
    ]
    names = [name for name in _texts(legend) if name in {one.label for one in series}]
    assert dict(zip(names, colours, strict=True)) == {"with": "0", "without": "1", "also with": "2"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("two\nlines", "two lines"),
        ("tab\tbell\x07nul\x00", "tab bell nul"),
        ("half \ud800", "half ?"),
        ("w" * 300, "w" * 59 + "…"),
    ],
)
def test_what_no_page_can_hold_is_left_out(name, shown):
    drawn = svg(Panel("title", "x", "y", [Series(name, [0], [1])]), "key")
    assert shown in _texts(drawn)
