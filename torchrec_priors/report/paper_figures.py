"""Figures 2, 3, 4, 6 and 7 of the paper, drawn from the runs of a section, with their costs."""

from collections.abc import Sequence
from statistics import fmean

from torchrec_priors.report import paper
from torchrec_priors.report.chart import chart, size_of
from torchrec_priors.report.figure import Figure, Panel, Series
from torchrec_priors.report.page_table import Lacking
from torchrec_priors.report.points import Points, points, range_over_seeds
from torchrec_priors.report.sections import Row, Section
from torchrec_priors.report.training_curves import figure_2


def paper_figures(section: Section) -> tuple[list[Figure], list[Lacking]]:
    """Returns the figures that the section's runs can fill, and those that they cannot fill."""
    made: list[Figure | Lacking] = [
        figure_2(section),
        _figure_3(section),
        _figure_4(section),
        _figure_6(section),
        _figure_7(section),
    ]
    figures = [figure for figure in made if isinstance(figure, Figure)]
    lacking = [figure for figure in made if isinstance(figure, Lacking)]
    return figures, lacking


def _figure_3(section: Section) -> Figure | Lacking:
    """Draws accuracy by group of users, a panel for each model with a prior of users."""
    form = paper.form("figure-3")
    panels = []
    rows: list[Row] = []
    for row in section.rows:
        prior = _user_prior(section, row)
        # One head with the same horizon, if it was run, differs only in the prior.
        before = section.plain_of(row.variant.horizon) or section.reference
        if prior is None or before is row:
            continue
        rows += [before, row]
        panel = _accuracy_by_group(prior, before, row)
        if panel is not None:
            panels.append(panel)

    if rows and not panels:
        return Lacking(form.title, "an evaluation that reports the groups of the prior of users")
    return chart(form, section, panels, rows)


def _user_prior(section: Section, row: Row) -> str | None:
    """Returns the first prior of users in the row's tree; None if there is none."""
    if section.data is None or not row.variant.ours or "user" not in row.variant.kinds:
        return None
    tree = row.config["priors.tree"]
    for prior in section.data.manifest.priors:
        if prior.kind == "user" and (prior.name in tree or f"user:{prior.name}" in tree):
            return prior.name
    return None


def _accuracy_by_group(prior: str, before: Row, row: Row) -> Panel | None:
    """Draws the ndcg of two rows in the groups that both report; None if they share none."""
    groups = []
    values: dict[str, list[list[float]]] = {before.label: [], row.label: []}
    for group in _group_names(row, prior):
        metric = f"group/{prior}/{group}/ndcg@10"
        in_both = [before.values(metric), row.values(metric)]
        if all(in_both):
            groups.append(group)
            for label, of_seeds in zip(values, in_both, strict=True):
                values[label].append(of_seeds)
    if not groups:
        return None

    series = [
        Series(label, range(len(groups)), list(map(fmean, ndcgs)), *range_over_seeds(ndcgs))
        for label, ndcgs in values.items()
    ]
    x_label = f"{prior}, largest group first"
    return Panel(f"{prior}: {row.label}", x_label, "ndcg@10", series, groups, "dots")


def _group_names(row: Row, prior: str) -> list[str]:
    """Returns the groups of a prior that have users, the largest first."""
    prefix = f"group/{prior}/"
    suffix = "/users"
    metrics = row.results[0].metrics
    sizes = {
        key[len(prefix) : -len(suffix)]: value
        for key, value in metrics.items()
        if key.startswith(prefix) and key.endswith(suffix) and value
    }
    return sorted(sizes, key=lambda group: -sizes[group])


def _figure_4(section: Section) -> Figure | Lacking:
    """Draws accuracy over context length, a panel for each model and a line for each size."""
    by_model: dict[str, list[Row]] = {}
    for row in section.rows:
        if not row.variant.baseline_model and not row.variant.adjusted:
            by_model.setdefault(_model(row), []).append(row)

    panels = []
    drawn: list[Row] = []
    all_points = Points()
    for model, rows in by_model.items():
        of_model = Points()
        for of_size in _by_size(rows).values():
            # A line with a single context compares nothing.
            contexts = [(row.variant.context, row) for row in of_size]
            if len({context for context, _ in contexts}) > 1:
                of_model.add(points(size_of(of_size[0]), "context", contexts))
        all_points.add(of_model, of=model)
        if of_model.lines:
            panels.append(
                Panel(model, "context length (items)", "ndcg@10", of_model.lines, log_x=True)
            )
            drawn += [row for of_size in _by_size(rows).values() for row in of_size]
    return chart(paper.form("figure-4"), section, panels, drawn, all_points.remarks())


def _figure_6(section: Section) -> Figure | Lacking:
    """Draws accuracy over size, a panel for each tree and a line for each composition."""
    trees: dict[tuple[str, ...], list[Row]] = {}
    for row in section.rows:
        if row.variant.ours and len(row.variant.kinds) > 1:
            trees.setdefault(tuple(row.config["priors.tree"]), []).append(row)

    # As in the paper, every panel also has a line for one head.
    one_head = [row for row in section.rows if row.variant.plain]

    panels = []
    drawn: list[Row] = []
    all_points = Points()
    for tree, rows in trees.items():
        by_composition: dict[str, list[Row]] = {}
        for row in rows:
            by_composition.setdefault(row.variant.composition, []).append(row)
        # The figure needs compositions to compare, and sizes along which it compares them.
        if len(by_composition) < 2 or len(_by_size(rows)) < 2:
            continue

        title = " x ".join(tree)
        of_tree = Points()
        for name, of_line in {"one head": one_head, **by_composition}.items():
            of_tree.add(points(name, "size", [(_millions(row), row) for row in of_line]))
        all_points.add(of_tree, of=title)
        if of_tree.lines:
            axis = "parameters of the encoder (millions)"
            panels.append(Panel(title, axis, "ndcg@10", of_tree.lines, log_x=True))
            drawn += [*one_head, *rows]
    return chart(paper.form("figure-6"), section, panels, drawn, all_points.remarks())


def _figure_7(section: Section) -> Figure | Lacking:
    """Draws accuracy over the number of temporal heads, a line for each size and fusion."""
    rows = [
        row
        for row in section.rows
        if (row.variant.plain or row.variant.ours) and set(row.variant.kinds) <= {"temporal"}
    ]
    drawn: list[Row] = []
    all_points = Points()
    for of_size in _by_size(rows).values():
        # One head needs no fusion, so it starts the line of every fusion.
        fusions = dict.fromkeys(row.variant.fusion for row in of_size if row.variant.kinds)
        for fusion in fusions or ["max"]:
            line = [row for row in of_size if not row.variant.kinds or row.variant.fusion == fusion]
            # A line with a single number of heads compares nothing.
            segments = [(row.variant.segments, row) for row in line]
            if len({number for number, _ in segments}) < 2:
                continue
            name = size_of(of_size[0])
            if len(fusions) > 1:
                name += f", {fusion} fusion"
            all_points.add(points(name, "segments", segments))
            drawn += [row for row in line if row not in drawn]

    panels: list[Panel] = []
    if all_points.lines:
        panels = [_segments_panel(all_points.lines)]
    return chart(paper.form("figure-7"), section, panels, drawn, all_points.remarks())


def _segments_panel(lines: Sequence[Series]) -> Panel:
    """Draws lines over the numbers of segments, which have equal distances on the axis."""
    numbers = sorted({int(x) for line in lines for x in line.x})
    position = {number: float(index) for index, number in enumerate(numbers)}
    series = [
        Series(line.label, [position[int(x)] for x in line.x], line.y, line.low, line.high)
        for line in lines
    ]
    ticks = ["next item" if number == 0 else str(number) for number in numbers]
    return Panel("Segments of the horizon", "temporal segments (heads)", "ndcg@10", series, ticks)


def _by_size(rows: Sequence[Row]) -> dict[tuple[int, int], list[Row]]:
    """Groups rows by width and number of layers, the smallest first."""
    by_size: dict[tuple[int, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.variant.dim, row.variant.layers)):
        by_size.setdefault((row.variant.dim, row.variant.layers), []).append(row)
    return by_size


def _millions(row: Row) -> float:
    """Returns the encoder's parameters in millions; if unknown, the width in their place."""
    return float(row.parameters.get("encoder and score", row.variant.dim)) / 1e6


def _model(row: Row) -> str:
    """Names the row's variant, with its fusion if that is not the usual one."""
    name = row.variant.name
    if row.variant.kinds and row.variant.fusion != "max":
        name += f", {row.variant.fusion} fusion"
    return name
