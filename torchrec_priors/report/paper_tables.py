"""Tables 2, 3, 6, 7 and 8 of the paper in their own form, filled with what is among the runs."""

from collections.abc import Iterable, Sequence

from torchrec_priors.report import paper
from torchrec_priors.report.ablations import table_9
from torchrec_priors.report.page_table import Lacking, Line, Table, percent, plain, relative
from torchrec_priors.report.sections import Row, Section

_EIGHT = tuple(f"{name}@{cutoff}" for name in ("recall", "ndcg") for cutoff in (5, 10, 50, 200))


def paper_tables(
    section: Section, sections: Sequence[Section]
) -> tuple[list[Table], list[Lacking]]:
    """Those that can be filled, and those that cannot.

    Args:
        sections: all of the page: Table 7 takes other horizons of the same data.
    """
    made: list[Table | Lacking] = [
        _table_2(section), _table_3(section), _table_6(section), _table_7(section, sections), _table_8(section),
        table_9(section),
    ]  # fmt: skip
    return [one for one in made if isinstance(one, Table)], [
        one for one in made if isinstance(one, Lacking)
    ]


def _table_2(section: Section) -> Table | Lacking:
    title = "Table 2: overall performance"
    rows = [row for row in section.rows if not row.variant.control]
    base = any(row.variant.plain for row in rows)
    if len(rows) < 2 or not base:
        return Lacking(
            title, "a run of one head (priors.tree=[]) and one of priors or of a baseline model"
        )
    metrics = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
    order = {"HSTU": 1, "+Item": 2, "+Event": 2, "+Graph": 2, "+User": 2, "+LT/ST": 3, "+Both": 5}
    rows = sorted(
        rows, key=lambda row: 0 if row.variant.baseline_model else order.get(row.variant.role, 4)
    )
    lines = []
    theirs = paper.figures(2, section)
    for role in dict.fromkeys(row.variant.role for row in rows):
        for row in (row for row in rows if row.variant.role == role):
            lines.append(Line([role, row.label, *_percents(row, metrics)], section.kind(row)))
        lines += _paper(theirs.get(role), role)
    head = ["Model", "Run", "Recall@5 (%)", "Recall@10 (%)", "NDCG@5 (%)", "NDCG@10 (%)"]
    return Table("table-2", title, head, lines, notes=paper.about(2, section))


def _table_3(section: Section) -> Table | Lacking:
    title = "Table 3: gain over one head, all users against those with a new interest"
    base = section.reference
    rows = [row for row in section.rows if row.variant.ours and row is not base]
    if not rows or not base.variant.plain or base.mean("new_interest/ndcg@10") is None:
        return Lacking(
            title, "a run of one head, one of temporal or item heads, and users with a new interest"
        )
    metrics = ("ndcg@10", "recall@10", "ndcg@200", "recall@200")
    theirs = paper.figures(3, section)
    lines = []
    for row in rows:
        gains = [
            [_gain(row, base, prefix + metric) for metric in metrics]
            for prefix in ("", "new_interest/")
        ]
        lines.append(Line([row.label, "All", *map(relative, gains[0])]))
        lines.append(Line(["", "New", *map(relative, gains[1])]))
        lines.append(Line(["", "Rel. boost", *map(relative, map(_boost, *gains))]))
        given = theirs.get(row.variant.name)
        if given:
            for split, some in (("All", given[:4]), ("New", given[4:])):
                lines.append(
                    Line(
                        [
                            f"paper, {row.variant.name}",
                            split,
                            *(relative(one / 100) for one in some),
                        ],
                        "paper",
                    )
                )
    notes = [
        f"Relative to '{base.label}'. The relative boost says how much larger the gain is for users with a target in a "
        "category that they never had; none is given where all users lose.",
        *paper.about(3, section, "HLLM"),
    ]
    head = ["Variant", "Split", "NDCG@10", "Recall@10", "NDCG@200", "Recall@200"]
    return Table("table-3", title, head, lines, notes=notes)


def _table_6(section: Section) -> Table | Lacking:
    title = "Table 6: how items are assigned to heads, and how scores are fused"
    rows = [row for row in section.rows if row.variant.ours and len(row.variant.kinds) == 1]
    rows = [
        row
        for row in rows
        if row.variant.kinds[0] in ("random", "all", "temporal", "item", "graph")
    ]
    several = any(
        len({other.variant.fusion for other in rows if other.variant.kinds == row.variant.kinds})
        > 1
        for row in rows
    )
    if not several and not any(row.variant.control for row in rows):
        return Lacking(
            title, "one prior with both max and mean fusion, or controls (random:like, all:like)"
        )
    base = [row for row in section.rows if row.variant.plain and row.variant.segments == 1]
    metrics = ("recall@10", "recall@50", "ndcg@10", "ndcg@50", "entropy@10", "entropy@50")
    names = {"random": "Random", "all": "All", "item": "Item", "graph": "Graph"}
    order = {
        name: place for place, name in enumerate(("random", "all", "temporal", "item", "graph"))
    }
    theirs = paper.figures(6, section)
    lines = []
    for row in [
        *base,
        *sorted(rows, key=lambda row: (order[row.variant.kinds[0]], row.variant.fusion)),
    ]:
        kind = row.variant.kinds[0] if row.variant.kinds else ""
        name = names.get(kind, f"LT/ST_{row.variant.segments}")
        fusion = row.variant.fusion if kind else "–"
        lines.append(Line([name, row.label, fusion, *_mixed(row, metrics)], section.kind(row)))
        lines += _paper(
            theirs.get(f"{name}, {fusion}" if kind else name), f"{name}, {fusion}", before=2
        )
    head = ["Prior", "Run", "Fusion", "Recall@10 (%)", "Recall@50 (%)", "NDCG@10 (%)", "NDCG@50 (%)",
            "Entropy@10", "Entropy@50"]  # fmt: skip
    return Table(
        "table-6", title, head, lines, notes=["Entropy in bits.", *paper.about(6, section)]
    )


def _table_7(section: Section, sections: Sequence[Section]) -> Table | Lacking:
    title = "Table 7: average gain over one head across eight metrics, by evaluation horizon"
    of_data = {
        each.horizon: each
        for each in sections
        if each.name == section.name and each.split == section.split and each.horizon
    }
    horizons = sorted(
        horizon for horizon, each in of_data.items() if each.plain_of(1) and _temporal(each)
    )
    if not horizons:
        return Lacking(
            title, "a run of the next item (model.horizon=1, priors.tree=[]) and temporal heads"
        )
    if section.horizon != horizons[0]:
        return Lacking(title, "nothing more: it stands with the first of the horizons")
    theirs = paper.figures(7, section)
    lines = []
    names = dict.fromkeys(
        row.variant.name for horizon in horizons for row in _temporal(of_data[horizon])
    )
    for name in names:
        by_fusion: dict[str, list[list[Row]]] = {}
        for place, horizon in enumerate(horizons):
            for row in (row for row in _temporal(of_data[horizon]) if row.variant.name == name):
                by_fusion.setdefault(row.variant.fusion, [[] for _ in horizons])[place].append(row)
        for fusion, at in by_fusion.items():
            said = name if fusion == "max" else f"{name}, {fusion} fusion"
            rows_of = {said: at}
            if any(len(rows) > 1 for rows in at):  # each stands for itself, under its label
                labels = dict.fromkeys(row.label for rows in at for row in rows)
                rows_of = {
                    f"{said}: {one}": [[r for r in rows if r.label == one] for rows in at]
                    for one in labels
                }
            for of, its in rows_of.items():
                bases = (of_data[horizon].plain_of(1) for horizon in horizons)
                gains = [
                    _mean_gain(rows[0], base) if rows else None
                    for rows, base in zip(its, bases, strict=True)
                ]
                lines.append(Line([of, *map(relative, gains)]))
        if name in theirs:
            given = dict(zip((1, 4, 8), theirs[name], strict=True))
            lines.append(
                Line([f"paper, {name}", *(_relative(given.get(h or 0)) for h in horizons)], "paper")
            )
    notes = [
        "Mean of the relative gains in recall and ndcg at 5, 10, 50 and 200 over the model of the next item alone. "
        "The horizon of an evaluation belongs to the prepared data (prepare --horizon): a column for each among these "
        "runs.",
        *paper.about(7, section, "HLLM"),
    ]
    return Table(
        "table-7",
        title,
        ["Variant", *(f"E = {horizon}" for horizon in horizons)],
        lines,
        notes=notes,
    )


def _table_8(section: Section) -> Table | Lacking:
    title = "Table 8: how priors are composed"
    rows = [row for row in section.rows if row.variant.ours and not row.variant.control]
    composed = [row for row in rows if len(row.variant.kinds) > 1]
    if not composed:
        return Lacking(title, "a tree of two priors, such as priors.tree=['temporal:2', 'genre']")
    wanted = {kind for row in composed for kind in row.variant.kinds}
    rows = [row for row in section.rows if row.variant.plain] + [
        row for row in rows if not row.variant.plain and set(row.variant.kinds) <= wanted
    ]
    rows.sort(key=lambda row: (len(row.variant.kinds), row.variant.segments))
    theirs = paper.figures(8, section)
    lines = []
    for row in rows:
        cells = _mixed(row, ("recall@10", "ndcg@10", "entropy@10"))
        lines.append(Line([row.variant.name, row.label, *cells], section.kind(row)))
        lines += _paper(theirs.get(row.variant.name), row.variant.name)
    head = ["Variant", "Run", "Recall@10 (%)", "NDCG@10 (%)", "Entropy@10"]
    notes = ["Entropy in bits.", *paper.about(8, section, "HLLM")]
    return Table("table-8", title, head, lines, notes=notes)


def _relative(percentage: float | None) -> str:
    return relative(None if percentage is None else percentage / 100)


def _temporal(section: Section) -> list[Row]:
    """Rows of Table 7: temporal heads, with item heads or without."""
    rows = [row for row in section.rows if row.variant.ours and row.variant.segments]
    return [row for row in rows if set(row.variant.kinds) <= {"temporal", "item"}]


def _gain(row: Row, base: Row | None, metric: str) -> float | None:
    """Relative."""
    value = row.mean(metric)
    before = base.mean(metric) if base else None
    return None if value is None or not before else value / before - 1


def _mean_gain(row: Row, base: Row | None) -> float | None:
    """Over the metrics of Table 7 that both have."""
    known = [gain for metric in _EIGHT if (gain := _gain(row, base, metric)) is not None]
    return sum(known) / len(known) if known else None


def _boost(everyone: float | None, newcomers: float | None) -> float | None:
    return (
        None if everyone is None or newcomers is None or everyone <= 0 else newcomers / everyone - 1
    )


def _percents(row: Row, metrics: Iterable[str]) -> list[str]:
    return [percent(row.mean(metric)) for metric in metrics]


def _mixed(row: Row, metrics: Iterable[str]) -> list[str]:
    """Recall and ndcg in %, entropy in bits."""
    return [
        plain(row.mean(metric), 3) if metric.startswith("entropy") else percent(row.mean(metric))
        for metric in metrics
    ]


def _paper(figures: Sequence[float] | None, name: str, before: int = 1) -> list[Line]:
    """The paper's row, with as many empty cells after its name as columns stand there."""
    if figures is None:
        return []
    return [Line([f"paper, {name}", *[""] * before, *(f"{one:g}" for one in figures)], "paper")]
