"""Tables 3 and 7 of the paper: relative gains over one head."""

from collections.abc import Sequence

from torchrec_priors.report import paper
from torchrec_priors.report.page_table import Lacking, Line, Table, relative
from torchrec_priors.report.sections import Row, Section

# Evaluation horizons of the paper's Table 7, in the order of its numbers.
_PAPER_HORIZONS = (1, 4, 8)


def table_3(section: Section) -> Table | Lacking:
    """Compares the gains of all users with the gains of users with a new interest."""
    form = paper.form("table-3")
    base = section.reference
    rows = [row for row in section.rows if row.variant.ours and row is not base]
    if not rows or not base.variant.plain or base.mean("new_interest/ndcg@10") is None:
        return Lacking(form.title, form.needs)

    theirs = paper.figures(3, section)
    lines = []
    for row in rows:
        everyone = [_gain(row, base, metric) for metric in form.metrics]
        # Both values of this gain are of users with a new interest.
        newcomers = [_gain(row, base, f"new_interest/{metric}") for metric in form.metrics]
        lines.append(Line([row.label, "All", *map(relative, everyone)]))
        lines.append(Line(["", "New", *map(relative, newcomers)]))
        lines.append(Line(["", "Rel. boost", *map(relative, map(_boost, everyone, newcomers))]))

        name = row.variant.name
        if name in theirs:
            # The paper's numbers of all users come first, then those of users with a new interest.
            columns = len(form.metrics)
            for split, numbers in (
                ("All", theirs[name][:columns]),
                ("New", theirs[name][columns:]),
            ):
                cells = [f"paper, {name}", split, *map(_of_percentage, numbers)]
                lines.append(Line(cells, "paper"))

    notes = [
        f"Relative to '{base.label}'. The relative boost says how much larger the gain is for "
        "users with a target in a category that they never had. It is left out where all users "
        "lose.",
        *paper.about(3, section),
    ]
    return Table(form.key, form.title, list(form.head), lines, notes=notes)


def table_7(section: Section, sections: Sequence[Section]) -> Table | Lacking:
    """Shows the mean gain of temporal heads over the next-item model, a column for each horizon.

    Args:
        sections: all sections of the page. A log that is prepared with another horizon is another
            data set.
    """
    form = paper.form("table-7")
    by_horizon = {
        other.horizon: other
        for other in sections
        if other.name == section.name and other.split == section.split and other.horizon
    }
    horizons = sorted(
        horizon
        for horizon, other in by_horizon.items()
        if other.plain_of(1) and _temporal_rows(other)
    )
    if not horizons:
        return Lacking(form.title, form.needs)
    # The table contains all horizons, so it is on the page only once.
    if section.horizon != horizons[0]:
        return Lacking(form.title, "nothing more: it is in the section of the shortest horizon")

    # The gains at a horizon are relative to the next-item model of the same horizon.
    columns = [by_horizon[horizon] for horizon in horizons]
    bases = [column.plain_of(1) for column in columns]
    theirs = paper.figures(7, section)
    lines = []
    names = dict.fromkeys(row.variant.name for column in columns for row in _temporal_rows(column))
    for name in names:
        for title, rows_by_column in _table_7_lines(name, columns).items():
            gains = [
                _mean_gain(rows, base, form.metrics)
                for rows, base in zip(rows_by_column, bases, strict=True)
            ]
            lines.append(Line([title, *map(relative, gains)]))

        if name in theirs:
            numbers = dict(zip(_PAPER_HORIZONS, theirs[name], strict=True))
            cells = [_of_percentage(numbers.get(horizon or 0)) for horizon in horizons]
            lines.append(Line([f"paper, {name}", *cells], "paper"))

    head = [*form.head, *(f"E = {horizon}" for horizon in horizons)]
    notes = [*form.notes, *paper.about(7, section)]
    return Table(form.key, form.title, head, lines, notes=notes)


def _table_7_lines(name: str, columns: Sequence[Section]) -> dict[str, list[list[Row]]]:
    """Returns the lines of one variant: title -> the rows of each column, at most one in a column.

    Each fusion is a line. If a column has several rows of a fusion, each label is a line instead.
    """
    by_fusion: dict[str, list[list[Row]]] = {}
    for index, column in enumerate(columns):
        for row in _temporal_rows(column):
            if row.variant.name == name:
                cells = by_fusion.setdefault(row.variant.fusion, [[] for _ in columns])
                cells[index].append(row)

    lines: dict[str, list[list[Row]]] = {}
    for fusion, cells in by_fusion.items():
        title = name
        if fusion != "max":
            title += f", {fusion} fusion"
        if all(len(rows) <= 1 for rows in cells):
            lines[title] = cells
            continue
        labels = dict.fromkeys(row.label for rows in cells for row in rows)
        for label in labels:
            lines[f"{title}: {label}"] = [
                [row for row in rows if row.label == label] for rows in cells
            ]
    return lines


def _temporal_rows(section: Section) -> list[Row]:
    """Returns the rows for Table 7: models with temporal heads, with or without item heads."""
    rows = [row for row in section.rows if row.variant.ours and row.variant.segments]
    return [row for row in rows if set(row.variant.kinds) <= {"temporal", "item"}]


def _gain(row: Row, base: Row | None, metric: str) -> float | None:
    """Computes the gain over `base`; None if a row lacks the metric or `base` has 0."""
    value = row.mean(metric)
    before = base.mean(metric) if base else None
    if value is None or not before:
        return None
    return value / before - 1


def _mean_gain(rows: Sequence[Row], base: Row | None, metrics: Sequence[str]) -> float | None:
    """Averages the first row's gains over the metrics that both rows have; None without a row."""
    if not rows:
        return None
    gains = [_gain(rows[0], base, metric) for metric in metrics]
    known = [gain for gain in gains if gain is not None]
    return sum(known) / len(known) if known else None


def _boost(everyone: float | None, newcomers: float | None) -> float | None:
    """Returns how much larger the gain of newcomers is; None unless the gain of all is positive."""
    if everyone is None or newcomers is None or everyone <= 0:
        return None
    return newcomers / everyone - 1


def _of_percentage(value: float | None) -> str:
    """Writes a relative difference that the paper gives in percent; "–" if it gives none."""
    if value is None:
        return relative(None)
    return relative(value / 100)
