"""Figures 2, 3, 4, 6 and 7 of the paper from what is among the runs, each with what its points cost."""

from collections.abc import Sequence
from typing import Any

from torchrec_priors.report.figure import Figure, Panel, Series
from torchrec_priors.report.page_table import Lacking, Line, Table, count, plain, seconds
from torchrec_priors.report.points import Points, points
from torchrec_priors.report.sections import Row, Section

_ENTROPY = "validation/entropy@10"
_NDCG = "validation/ndcg@10"


def paper_figures(section: Section) -> tuple[list[Figure], list[Lacking]]:
    """Those that can be drawn, and those that cannot."""
    made: list[Figure | Lacking] = [
        _figure_2(section), _figure_3(section), _figure_4(section), _figure_6(section), _figure_7(section),
    ]  # fmt: skip
    return [one for one in made if isinstance(one, Figure)], [
        one for one in made if isinstance(one, Lacking)
    ]


def curves(section: Section) -> Figure | None:
    """Loss and ndcg of every model over its training."""
    rows = _trained(section.rows)
    loss = [one for name, row in rows if (one := _over_training(row, "loss", name)).x]
    ndcg = [one for name, row in rows if (one := _over_training(row, _NDCG, name)).x]
    panels = [
        Panel("Loss over training", "training step", "loss (nats)", loss, style="lines"),
        Panel(
            "ndcg@10 over training, validation",
            "training step",
            "ndcg@10",
            ndcg,
            style=_style(ndcg),
        ),
    ]
    panels = [panel for panel in panels if panel.series]
    caption = (
        "Means over seeds. Losses of models with other heads or horizons are not of one scale:"
        " compare ndcg, not loss."
    )
    return Figure("curves", "Curves of the runs", caption, panels) if panels else None


def _figure_2(section: Section) -> Figure | Lacking:
    title = "Figure 2: entropy as training goes on"
    rows = [
        (name, row)
        for name, row in _trained(section.rows)
        if len(_over_training(row, _ENTROPY, name).x) > 1
    ]
    if not rows:
        return Lacking(
            title, "runs with two or more evaluations while training (training.evaluate_every)"
        )
    entropy = [_over_training(row, _ENTROPY, name) for name, row in rows]
    against = [
        Series(one.label, _over_training(row, _NDCG, name).y, one.y)
        for one, (name, row) in zip(entropy, rows, strict=True)
    ]
    panels = [
        Panel(
            "Entropy over training",
            "training step",
            "entropy@10 (bits)",
            entropy,
            style=_style(entropy),
        ),
        Panel("Entropy against accuracy", "ndcg@10, validation", "entropy@10 (bits)", against),
    ]
    caption = (
        "Validation split, means over seeds; the right panel has the same points against accuracy: up and to the right "
        "is more diverse and more accurate."
    )
    return Figure("figure-2", title, caption, panels, _costs("figure-2", [row for _, row in rows]))


def _figure_3(section: Section) -> Figure | Lacking:
    title = "Figure 3: accuracy by group of users, without and with a prior of users"
    found = []
    for row in section.rows:
        if not row.variant.ours or "user" not in row.variant.kinds or section.data is None:
            continue
        names = [prior.name for prior in section.data.manifest.priors if prior.kind == "user"]
        tree = row.config.get("priors.tree", [])
        prior = next((name for name in names if name in tree or f"user:{name}" in tree), None)
        before = section.plain_of(row.variant.horizon) or section.reference
        if prior is not None and before is not row:
            found.append((prior, before, row))
    if not found:
        return Lacking(title, "a run with a prior of users (prior user, then priors.tree=[NAME])")
    panels = []
    for prior, before, row in found:
        groups = _group_names(row, prior)
        keys = {group: f"group/{prior}/{group}/ndcg@10" for group in groups}
        both = [
            group
            for group in groups
            if before.mean(keys[group]) is not None and row.mean(keys[group]) is not None
        ]
        if both:
            series = [
                Series(
                    each.label, range(len(both)), [each.mean(keys[group]) or 0.0 for group in both]
                )
                for each in (before, row)
            ]
            panels.append(
                Panel(
                    f"{prior}: {row.label}",
                    f"{prior}, largest group first",
                    "ndcg@10",
                    series,
                    both,
                    "dots",
                )
            )
    if not panels:
        return Lacking(title, "an evaluation that reports the groups of the prior of users")
    caption = "ndcg@10 of the users of each group, the largest group first. Intervals: see the groups of users."
    shown = list({row.label: row for _, *two in found for row in two}.values())
    return Figure("figure-3", title, caption, panels, _costs("figure-3", shown))


def _figure_4(section: Section) -> Figure | Lacking:
    title = "Figure 4: context length and model size"
    by_model: dict[str, list[Row]] = {}
    for row in section.rows:
        if not row.variant.baseline_model and not row.variant.adjusted:
            by_model.setdefault(_model(row), []).append(row)
    panels = []
    shown = []
    every = Points()
    for model, rows in by_model.items():
        sizes = _by_size(rows)
        drawn = Points()
        for some in sizes.values():
            if len({row.variant.context for row in some}) > 1:
                drawn.add(
                    points(_size(some[0]), "context", [(row.variant.context, row) for row in some])
                )
        every.add(drawn, of=model)
        if drawn.lines:
            panels.append(
                Panel(model, "context length (items)", "ndcg@10", drawn.lines, log_x=True)
            )
            shown += [row for some in sizes.values() for row in some]
    if not panels:
        needs = "runs of one model with two or more of model.context, at one size or several"
        return Lacking(title, needs + every.remarks().rstrip("."))
    caption = f"{section.split} split, means over seeds.{every.remarks()}"
    return Figure("figure-4", title, caption, panels, _costs("figure-4", shown))


def _figure_6(section: Section) -> Figure | Lacking:
    title = "Figure 6: compositions across model sizes"
    trees: dict[tuple[str, ...], list[Row]] = {}
    for row in section.rows:
        if row.variant.ours and len(row.variant.kinds) > 1:
            trees.setdefault(tuple(row.config.get("priors.tree", [])), []).append(row)
    panels = []
    shown = []
    every = Points()
    for tree, rows in trees.items():
        compositions = dict.fromkeys(row.variant.composition for row in rows)
        if len(compositions) < 2 or len(_by_size(rows)) < 2:
            continue
        plain_rows = [row for row in section.rows if row.variant.plain]
        lines = {"one head": plain_rows} | {
            name: [row for row in rows if row.variant.composition == name] for name in compositions
        }
        drawn = Points()
        for name, some in lines.items():
            drawn.add(points(name, "size", [(_millions(row), row) for row in some]))
        every.add(drawn, of=" x ".join(tree))
        if not drawn.lines:
            continue
        axis = "parameters of the encoder (millions)"
        panels.append(Panel(" x ".join(tree), axis, "ndcg@10", drawn.lines, log_x=True))
        shown += [*plain_rows, *rows]
    if not panels:
        needs = (
            "one tree of two priors in two or more compositions, at two or more sizes (model.size)"
        )
        return Lacking(title, needs + every.remarks().rstrip("."))
    caption = f"{section.split} split, means over seeds.{every.remarks()}"
    return Figure("figure-6", title, caption, panels, _costs("figure-6", shown))


def _figure_7(section: Section) -> Figure | Lacking:
    title = "Figure 7: number of temporal segments across model sizes"
    rows = [
        row
        for row in section.rows
        if (row.variant.plain or row.variant.ours) and set(row.variant.kinds) <= {"temporal"}
    ]
    shown: list[Row] = []
    drawn = Points()
    for some in _by_size(rows).values():
        by_fusion = dict.fromkeys(row.variant.fusion for row in some if row.variant.kinds) or {
            "max": None
        }
        for fusion in by_fusion:
            line = [row for row in some if not row.variant.kinds or row.variant.fusion == fusion]
            if len({row.variant.segments for row in line}) > 1:
                name = (
                    _size(some[0]) if len(by_fusion) == 1 else f"{_size(some[0])}, {fusion} fusion"
                )
                drawn.add(points(name, "segments", [(row.variant.segments, row) for row in line]))
                shown += [row for row in line if row not in shown]
    if not drawn.lines:
        needs = "two or more of priors.tree=[], ['temporal:2'], ['temporal:4'], ... at one size or several"
        return Lacking(title, needs + drawn.remarks().rstrip("."))
    numbers = sorted({int(x) for one in drawn.lines for x in one.x})
    place = {number: float(index) for index, number in enumerate(numbers)}
    series = [Series(one.label, [place[int(x)] for x in one.x], one.y) for one in drawn.lines]
    ticks = ["next item" if number == 0 else str(number) for number in numbers]
    panel = Panel("Segments of the horizon", "temporal segments (heads)", "ndcg@10", series, ticks)
    caption = (
        f"{section.split} split, means over seeds. “Next item” is the model without a horizon, 1 segment the "
        "discounted loss (LT/ST_1)."
    )
    caption += drawn.remarks()
    return Figure("figure-7", title, caption, [panel], _costs("figure-7", shown))


def _trained(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """One row for each training, and a name; evaluations of one training have the same curve."""
    same: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        same.setdefault(tuple(str(result.run.path) for result in row.results), []).append(row)
    return [
        (
            some[0].label
            + (f" and {len(some) - 1} more of this training" if len(some) > 1 else ""),
            some[0],
        )
        for some in same.values()
    ]


def _over_training(row: Row, name: str, label: str) -> Series:
    """Means over the seeds that have each step."""
    by_step: dict[int, list[float]] = {}
    for result in row.results:
        for line in result.log:
            if line.get(name) is not None:
                by_step.setdefault(line["step"], []).append(line[name])
    steps = sorted(
        step for step, values in by_step.items() if len(values) == max(map(len, by_step.values()))
    )
    steps = steps[:: max(1, len(steps) // 150)]
    return Series(label, steps, [sum(by_step[step]) / len(by_step[step]) for step in steps])


def _costs(key: str, rows: Sequence[Row]) -> Table:
    """What each point costs."""
    head = ["Model", "size", "context", "heads", "parameters of heads", "encoder and score", "training step",
            "evaluation of a user", "ndcg@10"]  # fmt: skip
    lines = [
        Line(
            [
                row.label,
                _size(row),
                str(row.variant.context),
                count(row.heads),
                count(row.parameters.get("heads")),
                count(row.parameters.get("encoder and score")),
                seconds(row.step_seconds),
                seconds(row.user_seconds),
                plain(row.mean("ndcg@10")),
            ]
        )
        for row in {row.label: row for row in rows}.values()
    ]
    return Table(f"{key}-costs", "What the points cost", head, lines)


def _by_size(rows: Sequence[Row]) -> dict[tuple[int, int], list[Row]]:
    found: dict[tuple[int, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.variant.dim, row.variant.layers)):
        found.setdefault((row.variant.dim, row.variant.layers), []).append(row)
    return found


def _size(row: Row) -> str:
    name: Any = row.config.get("model.size")
    return str(name or f"width {row.variant.dim}, {row.variant.layers} layers")


def _millions(row: Row) -> float:
    return float(row.parameters.get("encoder and score", row.variant.dim)) / 1e6


def _model(row: Row) -> str:
    fusion = (
        f", {row.variant.fusion} fusion"
        if row.variant.kinds and row.variant.fusion != "max"
        else ""
    )
    return row.variant.name + fusion


def _group_names(row: Row, prior: str) -> list[str]:
    """Largest first."""
    prefix = f"group/{prior}/"
    suffix = "/users"
    metrics = row.results[0].metrics
    sizes = {
        key[len(prefix) : -len(suffix)]: value
        for key, value in metrics.items()
        if key.startswith(prefix) and key.endswith(suffix) and value
    }
    return sorted(sizes, key=lambda group: -sizes[group])


def _style(series: Sequence[Series]) -> Any:
    return "points" if max((len(one.x) for one in series), default=0) <= 25 else "lines"
