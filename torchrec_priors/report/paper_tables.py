"""Tables 2, 3, 6, 7, 8 and 9 of the paper in their own form, filled with the runs of a section.

Tables 2, 6, 8 and 9 show values: a line for each row, and the paper's below it. Tables 3 and 7 show
relative gains (`paper_gains`). What a table is called, needs and has as columns is in `paper.toml`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torchrec_priors.report import paper
from torchrec_priors.report.page_table import Lacking, Line, Table, percent, plain
from torchrec_priors.report.paper_gains import table_3, table_7
from torchrec_priors.report.sections import Row, Section

_ROLES = {"HSTU": 1, "+Item": 2, "+Event": 2, "+Graph": 2, "+User": 2, "+LT/ST": 3, "+Both": 5}
_OTHER_ROLE = 4

# Kinds of priors in Table 6, in its order.
_ASSIGNED = ("random", "all", "temporal", "item", "graph")
_ASSIGNED_NAMES = {"random": "Random", "all": "All", "item": "Item", "graph": "Graph"}

# Settings in which the rows of Table 9 may differ.
_ABLATED = ("seed", "loss.gamma", "loss.balance", "negatives.catalogue_share")


def paper_tables(
    section: Section, sections: Sequence[Section]
) -> tuple[list[Table], list[Lacking]]:
    """The tables that the section's runs fill, and those that they do not fill.

    Args:
        sections: all sections of the page. Table 7 also takes other horizons of the same data.
    """
    made: list[Table | Lacking] = [
        _table_2(section),
        table_3(section),
        _table_6(section),
        table_7(section, sections),
        _table_8(section),
        _table_9(section),
    ]
    tables = [table for table in made if isinstance(table, Table)]
    lacking = [table for table in made if isinstance(table, Lacking)]
    return tables, lacking


@dataclass(frozen=True)
class _Entry:
    """One row of ours in a table of values.

    Attributes:
        cells: what is written before its values.
        in_paper: name of the row in the paper that is shown below it; "" for none.
        kind: of the line, see `Line`.
    """

    row: Row
    cells: Sequence[str]
    in_paper: str
    kind: str = ""


def _table_of_values(number: int, section: Section, entries: Iterable[_Entry]) -> Table:
    """A table of the paper with a line for each entry, and the paper's rows below theirs."""
    form = paper.form(f"table-{number}")
    theirs = paper.figures(number, section)

    lines = []
    for entry in entries:
        values = [
            _written(entry.row.mean(metric), metric, form.entropy_digits) for metric in form.metrics
        ]
        lines.append(Line([*entry.cells, *values], entry.kind))

        # The paper names no runs: their cells stay empty.
        if entry.in_paper in theirs:
            blanks = [""] * (len(entry.cells) - 1)
            numbers = [f"{value:g}" for value in theirs[entry.in_paper]]
            lines.append(Line([f"paper, {entry.in_paper}", *blanks, *numbers], "paper"))

    notes = [*form.notes, *paper.about(number, section)]
    return Table(form.key, form.title, list(form.head), lines, notes=notes)


def _written(value: float | None, metric: str, entropy_digits: int) -> str:
    """Recall and ndcg in %, entropy in bits."""
    if metric.startswith("entropy"):
        return plain(value, entropy_digits)
    return percent(value)


def _lacking(number: int) -> Lacking:
    form = paper.form(f"table-{number}")
    return Lacking(form.title, form.needs)


def _table_2(section: Section) -> Table | Lacking:
    """Baseline models, one head, and each kind of prior."""
    # The table compares with one head of HSTU; controls are in Table 6.
    rows = [row for row in section.rows if not row.variant.control]
    if len(rows) < 2 or not any(row.variant.plain for row in rows):
        return _lacking(2)

    by_role: dict[str, list[Row]] = {}
    for row in sorted(rows, key=_place_in_table_2):
        by_role.setdefault(row.variant.role, []).append(row)

    entries = []
    for role, of_role in by_role.items():
        for row in of_role:
            # The paper's row comes once, below all of ours.
            in_paper = role if row is of_role[-1] else ""
            entries.append(_Entry(row, [role, row.label], in_paper, section.kind(row)))
    return _table_of_values(2, section, entries)


def _place_in_table_2(row: Row) -> int:
    """Baseline models come first."""
    if row.variant.baseline_model:
        return 0
    return _ROLES.get(row.variant.role, _OTHER_ROLE)


def _table_6(section: Section) -> Table | Lacking:
    """Trees of one level and their controls, by fusion."""
    rows = [
        row
        for row in section.rows
        if row.variant.ours and len(row.variant.kinds) == 1 and row.variant.kinds[0] in _ASSIGNED
    ]

    # The table compares fusions of one prior, or priors with their controls.
    fusions: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        fusions.setdefault(row.variant.kinds, set()).add(row.variant.fusion)
    several_fusions = any(len(of_kind) > 1 for of_kind in fusions.values())
    if not several_fusions and not any(row.variant.control for row in rows):
        return _lacking(6)

    rows.sort(key=lambda row: (_ASSIGNED.index(row.variant.kinds[0]), row.variant.fusion))
    one_head = [row for row in section.rows if row.variant.plain and row.variant.segments == 1]

    entries = []
    for row in [*one_head, *rows]:
        name = f"LT/ST_{row.variant.segments}"
        fusion = "–"
        if row.variant.kinds:
            name = _ASSIGNED_NAMES.get(row.variant.kinds[0], name)
            fusion = row.variant.fusion
        cells = [name, row.label, fusion]
        entries.append(_Entry(row, cells, f"{name}, {fusion}", section.kind(row)))
    return _table_of_values(6, section, entries)


def _table_8(section: Section) -> Table | Lacking:
    """Trees of several levels next to trees of one of them."""
    ours = [row for row in section.rows if row.variant.ours and not row.variant.control]
    composed = [row for row in ours if len(row.variant.kinds) > 1]
    if not composed:
        return _lacking(8)

    # One head, the composed trees, and trees of one of the priors that they compose.
    kinds = {kind for row in composed for kind in row.variant.kinds}
    rows = [row for row in section.rows if row.variant.plain]
    rows += [row for row in ours if not row.variant.plain and set(row.variant.kinds) <= kinds]
    # From no prior to the composed ones.
    rows.sort(key=lambda row: (len(row.variant.kinds), row.variant.segments))

    entries = []
    for row in rows:
        name = row.variant.name
        entries.append(_Entry(row, [name, row.label], name, section.kind(row)))
    return _table_of_values(8, section, entries)


def _table_9(section: Section) -> Table | Lacking:
    """One model without parts of the training objective."""
    # The largest family of models that differ in what is ablated only.
    families: dict[str, list[Row]] = {}
    for row in section.rows:
        if row.variant.ours:
            families.setdefault(_without_ablated(row.config), []).append(row)
    family = max(families.values(), key=len, default=[])
    if len(family) < 2:
        return _lacking(9)

    # The full model samples negatives in groups, balances fully, and has the highest gamma.
    full = min(
        family,
        key=lambda row: (not row.variant.in_group, row.variant.balance != 1, -row.variant.gamma),
    )
    others = [row for row in family if row is not full]
    others.sort(key=lambda row: (row.variant.in_group, row.variant.balance, -row.variant.gamma))

    entries = []
    for row in [full, *others]:
        name = _ablation(row, full)
        shown = name
        if row is full:
            shown = f"Full model ({name})"
        entries.append(_Entry(row, [shown, row.label], name))
    return _table_of_values(9, section, entries)


def _without_ablated(config: dict[str, Any]) -> str:
    shared = {key: value for key, value in config.items() if key not in _ABLATED}
    return json.dumps(shared, sort_keys=True)


def _ablation(row: Row, full: Row) -> str:
    """What a row has otherwise than the full model, as the paper names it."""
    variant = row.variant
    parts = []
    if not variant.in_group:
        parts.append("w/o in-group negative sampling")
    if variant.balance == 0:
        parts.append("w/o frequency balancing")
    elif variant.balance != 1:
        parts.append(f"balance = {variant.balance:g}")
    if not parts or variant.gamma != full.variant.gamma:
        parts.append(f"γ = {variant.gamma:g}")
    return ", ".join(parts)
