"""Figures of the paper: the text around the panels, and a table of what each point costs."""

from collections.abc import Sequence

from torchrec_priors.report.figure import Figure, Panel
from torchrec_priors.report.page_table import Lacking, Line, Table, count, plain, seconds
from torchrec_priors.report.paper import Form
from torchrec_priors.report.sections import Row, Section


def chart(
    form: Form, section: Section, panels: list[Panel], rows: Sequence[Row], remarks: str = ""
) -> Figure | Lacking:
    """Returns a figure of the paper with a table of costs; without panels, what the figure needs.

    Args:
        rows: the rows that are drawn.
        remarks: sentences about the points, from `Points.remarks`.
    """
    if not panels:
        return Lacking(form.title, form.needs + remarks.rstrip("."))

    # Some captions do not name the split: curves over training are always of validation.
    caption = form.caption.format(split=section.split) + remarks
    return Figure(form.key, form.title, caption, panels, _costs(form.key, rows))


def size_of(row: Row) -> str:
    """Returns the size of a model in words: `model.size`, or its width and layers."""
    name = row.config["model.size"]
    return str(name or f"width {row.variant.dim}, {row.variant.layers} layers")


def _costs(key: str, rows: Sequence[Row]) -> Table:
    """Makes a table of what each point costs: the parameters and times of its row."""
    head = [
        "Model",
        "size",
        "context",
        "heads",
        "parameters of heads",
        "encoder and score",
        "training step",
        "evaluation of a user",
        "ndcg@10",
    ]

    # A row may be drawn in several panels.
    by_label = {row.label: row for row in rows}
    lines = [
        Line(
            [
                row.label,
                size_of(row),
                str(row.variant.context),
                count(row.heads),
                count(row.parameters.get("heads")),
                count(row.parameters.get("encoder and score")),
                seconds(row.step_seconds),
                seconds(row.user_seconds),
                plain(row.mean("ndcg@10")),
            ]
        )
        for row in by_label.values()
    ]
    return Table(f"{key}-costs", "What the points cost", head, lines)
