"""Draws panels as inline SVG, with text as text and with colours as CSS variables.

matplotlib writes a whole document with fixed colours. So each fixed colour here stands for a CSS
variable of the page and is replaced afterwards. All ids get the panel's key as a prefix, so they do
not occur twice on a page.
"""

import io
import re
import warnings
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from torchrec_priors.report.figure import Panel, Series

SERIES = 8  # number of colours; the next eight series have the same colours, with dashes

# Colours that matplotlib writes. They are replaced by the page's variables.
_INK = "#010203"
_GRID = "#010204"
_FAINT = "#010205"
_VARIABLES = {_INK: "var(--ink)", _GRID: "var(--grid)", _FAINT: "var(--muted)"} | {
    f"#0a000{number}": f"var(--series-{number})" for number in range(SERIES)
}

_STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)))
_MARKERS = "osD^vPX*"
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
_LONGEST_TICK = 23  # letters of a name on the x axis
_LONGEST_NAME = 26  # letters of a name next to a point
_NAME_SIZE = 9.5
_MARKER = 4  # pixels from the middle of a marker to its edge
# Where a name may stand, as seen from its point: across and up.
_BESIDE = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))
_WIDTH = 4.6  # inches: about the width of a phone with this size of text
_HEIGHT = 3.0  # inches, without the legend
_LEGEND_LINE = 0.2  # inches
_SLANTED_TICKS = 0.8  # inches


def svg(panel: Panel, key: str) -> str:
    """Returns the panel as an `<svg>` element, with ids that begin with `key`."""
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # The browser draws the text, so matplotlib's font need not have all letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")

        legend = [series.label for series in panel.series if series.label]
        height = _HEIGHT + _LEGEND_LINE * len(legend)
        if _slanted(panel):
            height += _SLANTED_TICKS
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.subplots()

        # The number of a series is its label until `_add_legend` sets the names.
        for number, series in enumerate(panel.series):
            _draw(axes, panel, series, number)
        _draw_axes(axes, panel)
        if legend:
            _add_legend(figure, axes, legend)
        if panel.style == "scatter":
            axes.margins(0.12)
            _name_points(figure, axes, panel)

        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), key, panel)


def _draw(axes: Axes, panel: Panel, series: Series, number: int) -> None:
    """Draws one series. Its number decides the colour, the dashes and the marker."""
    style = _STYLES[number // SERIES % len(_STYLES)]
    look: dict[str, Any] = {
        "color": _colour(number),
        "marker": _MARKERS[number % len(_MARKERS)],
        "markersize": 4.5,
        "linewidth": 1.5,
        "label": None,
    }
    if panel.style == "lines":
        look["marker"] = None
    if series.label:
        look["label"] = str(number)  # see `_add_legend`

    x = list(series.x)
    if panel.style == "dots":
        # The series are next to each other, within 0.6 of the distance between two places.
        x = [place + 0.6 * ((number + 0.5) / len(panel.series) - 0.5) for place in x]
        style = "none"

    if panel.style == "scatter":
        style = "none"
    if len(series.low):
        errors: dict[str, Any] = {"yerr": _lengths(series.y, series.low, series.high)}
        if len(series.x_low):
            errors["xerr"] = _lengths(series.x, series.x_low, series.x_high)
        axes.errorbar(x, series.y, **errors, capsize=2, elinewidth=1, ls=style, **look)
    else:
        axes.plot(x, series.y, ls=style, **look)


def _colour(number: int) -> str:
    """Returns the colour of a series, which `_in_page` replaces by a variable of the page."""
    return f"#0a000{number % SERIES}"


def _lengths(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> list[list[float]]:
    """Returns how far intervals reach below and above their values."""
    below = [max(0.0, value - low) for value, low in zip(values, lows, strict=True)]
    above = [max(0.0, high - value) for value, high in zip(values, highs, strict=True)]
    return [below, above]


def _name_points(figure: Figure, axes: Axes, panel: Panel) -> None:
    """Writes the name of each series next to its point, where there is room.

    The legend has all names, so a point without room keeps only its colour and marker.
    """
    # Only a canvas of pixels can measure text. The layout decides where the points are.
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    inside = axes.get_window_extent(renderer)
    taken = [box for series in panel.series for box in _bars(axes, series)]
    for number, series in enumerate(panel.series):
        for across, up in _BESIDE:
            text = axes.annotate(
                _plain(series.label, _LONGEST_NAME),
                _end(series, across, up),
                xytext=(5 * across, 5 * up),
                textcoords="offset points",
                ha={-1: "right", 0: "center", 1: "left"}[across],
                va={-1: "top", 0: "center", 1: "bottom"}[up],
                fontsize=_NAME_SIZE,
                color=_colour(number),
                in_layout=False,
            )
            box = text.get_window_extent(renderer)
            fits = inside.containsx(box.x0) and inside.containsx(box.x1)
            fits = fits and inside.containsy(box.y0) and inside.containsy(box.y1)
            if fits and not box.count_overlaps(taken):
                taken.append(box)
                break
            text.remove()


def _end(series: Series, across: int, up: int) -> tuple[float, float]:
    """Returns the end of a point's bar in one direction; the point itself between directions."""
    x = series.x[0]
    y = series.y[0]
    if across and not up and len(series.x_low):
        x = series.x_high[0] if across > 0 else series.x_low[0]
    if up and not across and len(series.low):
        y = series.high[0] if up > 0 else series.low[0]
    return x, y


def _bars(axes: Axes, series: Series) -> list[Bbox]:
    """Returns what the marker and the bars of a point cover, in pixels."""
    boxes = []
    for ends in (((-1, 0), (1, 0)), ((0, -1), (0, 1))):
        low, high = (axes.transData.transform(_end(series, *end)) for end in ends)
        boxes.append(Bbox([low - _MARKER, high + _MARKER]))
    return boxes


def _add_legend(figure: Figure, axes: Axes, labels: list[str]) -> None:
    """Adds the legend. Names are set last: matplotlib would omit those that begin with `_`."""
    # The labels are still numbers, see `_draw`.
    handles, numbers = axes.get_legend_handles_labels()
    assert len(numbers) == len(labels)
    # matplotlib lists series without intervals first.
    by_number = sorted(zip(numbers, handles, strict=True), key=lambda pair: int(pair[0]))
    numbers = [number for number, _ in by_number]
    handles = [handle for _, handle in by_number]
    legend = figure.legend(handles, numbers, loc="outside lower left", ncols=1, handlelength=2.4)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(_plain(label))


def _plain(name: str, longest: int = _LONGEST) -> str:
    """Returns a name as one line of printable text, shortened if it is long.

    >>> _plain("a\\n\\x00b")
    'a b'
    """
    # Half of a surrogate pair cannot be written as UTF-8.
    letters = name.encode("utf8", "replace").decode("utf8")
    printable = "".join(letter if letter.isprintable() else " " for letter in letters)
    text = " ".join(printable.split())
    if len(text) > longest:
        return text[: longest - 1] + "…"
    return text


def _slanted(panel: Panel) -> bool:
    """Whether the names on the x axis are too long to be written next to each other."""
    return bool(panel.ticks) and max(map(len, panel.ticks)) * len(panel.ticks) > 40


def _draw_axes(axes: Axes, panel: Panel) -> None:
    """Draws labels, grid and ticks."""
    axes.set_xlabel(_plain(panel.x_label))
    axes.set_ylabel(_plain(panel.y_label))
    both = panel.style in ("lines", "scatter")
    axes.grid(axis="both" if both else "y", linewidth=0.6)
    axes.set_axisbelow(True)
    if panel.zero:
        axes.axhline(0, color=_FAINT, linewidth=1)

    if panel.ticks:
        look: dict[str, Any] = {"rotation": 0, "ha": "center", "rotation_mode": "default"}
        if _slanted(panel):
            look = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        names = [_plain(tick, _LONGEST_TICK) for tick in panel.ticks]
        axes.set_xticks(range(len(panel.ticks)), names, **look)
    elif panel.log_x:
        # The x axis has few values, such as sizes. Each gets a tick.
        values = sorted({x for series in panel.series for x in series.x})
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{x:g}" for x in values])
        axes.minorticks_off()


def _inline(document: str, key: str, panel: Panel) -> str:
    """Turns matplotlib's document into an element of the page."""
    text = document[document.index("<svg") :]
    # Only a separate document needs metadata, style and comments.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # Only tags are changed. The text between them contains names of runs and groups.
    text = re.sub(r"<[^>]*>", lambda tag: _in_page(tag[0], key), text)

    # A width in pixels would not fit phones. The page sets the width, and the view box keeps the
    # aspect ratio.
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    head = (
        f'<svg class="plot" viewBox="{box[1]}" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-labelledby="{key}-title {key}-text">'
        f'<title id="{key}-title">{escape(panel.title)}</title>'
        f'<desc id="{key}-text">{escape(panel.text())}</desc>'
    )
    return re.sub(r"\s*\n\s*", "\n", head + text[text.index(">") + 1 :])


def _in_page(tag: str, key: str) -> str:
    """Returns a tag with the key before its ids and with the page's colours."""
    # Panels are drawn separately, so they all have the same ids before this.
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{key}-", tag)
    tag = tag.replace("xlink:href", "href")
    tag = re.sub("#[0-9a-f]{6}", lambda colour: _VARIABLES.get(colour[0], colour[0]), tag)
    # Text keeps its size but takes the page's font.
    tag = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px", tag)
    # matplotlib draws in black everything that has no colour in `_SETTINGS`.
    return tag.replace("stroke: #000000", "stroke: var(--ink)")
