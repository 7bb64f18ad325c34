"""Panels as inline SVG: text stays text, colours are the page's (CSS variables), and everything has a name.

matplotlib writes a whole document in fixed colours; here these stand for variables, and ids are made the page's own.
"""

import io
import re
import warnings
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchrec_priors.report.figure import Panel, Series

SERIES = 8  # colours; the next eight are the same with dashes
_INK = "#010203"
_GRID = "#010204"
_FAINT = "#010205"
_STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)))
_MARKERS = "osD^vPX*"
_VARIABLES = {_INK: "var(--ink)", _GRID: "var(--grid)", _FAINT: "var(--muted)"} | {
    f"#0a000{number}": f"var(--series-{number})" for number in range(SERIES)
}
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,  # names of runs and groups may have a `$`
    "font.size": 11,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.labelcolor": _INK,
}
_LONGEST = 60  # letters of a name
_WIDTH = 4.6  # inches: about a phone's width at this size of text


def svg(panel: Panel, key: str) -> str:
    """The panel as an `<svg>` element whose ids begin with `key`."""
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font"
        )  # the page's reader has others
        legend = [one for one in panel.series if one.label]
        figure = Figure(
            figsize=(_WIDTH, 3.0 + 0.2 * len(legend) + (0.8 if _slanted(panel) else 0.0)),
            layout="constrained",
        )
        axes = figure.subplots()
        for number, series in enumerate(panel.series):
            _draw(axes, panel, series, number)
        _axes(axes, panel)
        if legend:
            _explain(figure, axes, [one.label for one in legend])
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), key, panel)


def _draw(axes: Axes, panel: Panel, series: Series, number: int) -> None:
    colour = f"#0a000{number % SERIES}"
    style = _STYLES[number // SERIES % len(_STYLES)]
    marker = None if panel.style == "lines" else _MARKERS[number % len(_MARKERS)]
    look: dict[str, Any] = {
        "color": colour,
        "marker": marker,
        "markersize": 4.5,
        "linewidth": 1.5,
        "label": str(number) if series.label else None,
    }
    x = list(series.x)
    if panel.style == "dots":
        x = [place + 0.6 * ((number + 0.5) / len(panel.series) - 0.5) for place in x]
        style = "none"
    if len(series.low):
        below = [y - low for y, low in zip(series.y, series.low, strict=True)]
        above = [high - y for y, high in zip(series.y, series.high, strict=True)]
        axes.errorbar(x, series.y, yerr=[below, above], capsize=2, elinewidth=1, ls=style, **look)
    else:
        axes.plot(x, series.y, ls=style, **look)


def _explain(figure: Figure, axes: Axes, labels: list[str]) -> None:
    """The legend. matplotlib leaves out names that begin with `_`: they are put in afterwards."""
    handles, numbers = axes.get_legend_handles_labels()
    assert len(numbers) == len(labels)
    legend = figure.legend(handles, numbers, loc="outside lower left", ncols=1, handlelength=2.4)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(_plain(label))


def _plain(name: str, longest: int = _LONGEST) -> str:
    """A name as one line that a page can hold, whatever it is made of.

    >>> _plain("a\\n\\x00b")
    'a b'
    """
    letters = name.encode("utf8", "replace").decode(
        "utf8"
    )  # halves of surrogate pairs are no letters
    printable = "".join(letter if letter.isprintable() else " " for letter in letters)
    text = " ".join(printable.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _slanted(panel: Panel) -> bool:
    """Whether the names of the places want more room than there is beside one another."""
    return bool(panel.ticks) and max(map(len, panel.ticks)) * len(panel.ticks) > 40


def _axes(axes: Axes, panel: Panel) -> None:
    axes.set_xlabel(_plain(panel.x_label))
    axes.set_ylabel(_plain(panel.y_label))
    axes.grid(axis="both" if panel.style == "lines" else "y", linewidth=0.6)
    axes.set_axisbelow(True)
    if panel.zero:
        axes.axhline(0, color=_FAINT, linewidth=1)
    if panel.ticks:
        long = _slanted(panel)
        axes.set_xticks(
            range(len(panel.ticks)),
            [_plain(tick, 23) for tick in panel.ticks],
            rotation=45 if long else 0,
            ha="right" if long else "center",
            rotation_mode="anchor" if long else "default",
        )
    elif panel.log_x:
        values = sorted({x for one in panel.series for x in one.x})
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{x:g}" for x in values])
        axes.minorticks_off()


def _inline(text: str, key: str, panel: Panel) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: _own(tag[0], key), text)  # what is between tags is names
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    head = (
        f'<svg class="plot" viewBox="{box[1]}" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-labelledby="{key}-title {key}-text"><title id="{key}-title">{escape(panel.title)}</title>'
        f'<desc id="{key}-text">{escape(panel.text())}</desc>'
    )
    return re.sub(r"\s*\n\s*", "\n", head + text[text.index(">") + 1 :])


def _own(tag: str, key: str) -> str:
    """A tag with ids of the page's own, and its colours."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{key}-", tag)
    tag = tag.replace("xlink:href", "href")
    tag = re.sub("#[0-9a-f]{6}", lambda found: _VARIABLES.get(found[0], found[0]), tag)
    tag = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px", tag)
    return tag.replace("stroke: #000000", "stroke: var(--ink)")
