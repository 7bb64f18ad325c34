"""Tables 2, 3, 6, 7, 8 and 9 in the form of the paper, filled with the runs of a section.

Tables 2, 6, 8 and 9 show values: a line for each row, with the paper's values below it. Tables 3
and 7 show relative gains (`paper_gains`). `paper.toml` has the title and the columns of each table,
and says which runs it needs.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torchrec_priors.report import paper
from torchrec_priors.report.page_table import Lacking, Line, Table, percent, plain
from torchrec_priors.report.paper_gains import table_3, table_7
from torchrec_priors.report.sections import Row, Section

# The order of the rows of Table 2 by their roles, after the baseline models.
_ROLES = {"HSTU": 1, "+Item": 2, "+Event": 2, "+Graph": 2, "+User": 2, "+LT/ST": 3, "+Both": 5}
_OTHER_ROLE = 4

# Kinds of priors in Table 6, in the order of the table.
_ASSIGNED = ("random", "all", "temporal", "item", "graph")
_ASSIGNED_NAMES = {"random": "Random", "all": "All", "item": "Item", "graph": "Graph"}

# Settings in which the rows of Table 9 may differ.
_ABLATED = ("seed", "loss.gamma", "loss.balance", "negatives.catalogue_share")


def paper_tables(
    section: Section, sections: Sequence[Section]
) -> tuple[list[Table], list[Lacking]]:
    """Returns the tables that the section's runs can fill, and those that they cannot fill.

    Args:
        sections: all sections of the page. Table 7 also uses sections of the same data with other
            horizons.
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
    """One of our rows in a table of values.

    Attributes:
        cells: the cells before the row's values.
        in_paper: the name of the paper's row that is shown below this one; "" for none.
        kind: the kind of the line, see `Line`.
    """

    row: Row
    cells: Sequence[str]
    in_paper: str
    kind: str = ""


def _table_of_values(number: int, section: Section, entries: Iterable[_Entry]) -> Table:
    """Makes a table of the paper, with a line for each entry and the paper's row below it."""
    form = paper.form(f"table-{number}")
    theirs = paper.figures(number, section)

    lines = []
    for entry in entries:
        values = [
            _written(entry.row.mean(metric), metric, form.entropy_digits) for metric in form.metrics
        ]
        lines.append(Line([*entry.cells, *values], entry.kind))

        # The paper names no runs, so these cells stay empty.
        if entry.in_paper in theirs:
            blanks = [""] * (len(entry.cells) - 1)
            numbers = [f"{value:g}" for value in theirs[entry.in_paper]]
            lines.append(Line([f"paper, {entry.in_paper}", *blanks, *numbers], "paper"))

    notes = [*form.notes, *paper.about(number, section)]
    return Table(form.key, form.title, list(form.head), lines, notes=notes)


def _written(value: float | None, metric: str, entropy_digits: int) -> str:
    """Writes a value of a metric: recall and ndcg in %, entropy in bits."""
    if metric.startswith("entropy"):
        return plain(value, entropy_digits)
    return percent(value)


def _lacking(number: int) -> Lacking:
    form = paper.form(f"table-{number}")
    return Lacking(form.title, form.needs)


def _table_2(section: Section) -> Table | Lacking:
    """Shows baseline models, one head, and each kind of prior."""
    # This table needs one head of HSTU to compare with. Controls are in Table 6.
    rows = [row for row in section.rows if not row.variant.control]
    if len(rows) < 2 or not any(row.variant.plain for row in rows):
        return _lacking(2)

    by_role: dict[str, list[Row]] = {}
    for row in sorted(rows, key=_place_in_table_2):
        by_role.setdefault(row.variant.role, []).append(row)

    entries = []
    for role, role_rows in by_role.items():
        for row in role_rows:
            # The paper's row is shown once, below all of our rows with this role.
            in_paper = role if row is role_rows[-1] else ""
            entries.append(_Entry(row, [role, row.label], in_paper, section.kind(row)))
    return _table_of_values(2, section, entries)


def _place_in_table_2(row: Row) -> int:
    """Returns the place of a row in Table 2; baseline models come first."""
    if row.variant.baseline_model:
        return 0
    return _ROLES.get(row.variant.role, _OTHER_ROLE)


def _table_6(section: Section) -> Table | Lacking:
    """Shows trees of one level and their controls, by fusion."""
    rows = [
        row
        for row in section.rows
        if row.variant.ours and len(row.variant.kinds) == 1 and row.variant.kinds[0] in _ASSIGNED
    ]

    # This table needs two fusions of one prior, or a control, to compare.
    fusions: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        fusions.setdefault(row.variant.kinds, set()).add(row.variant.fusion)
    several_fusions = any(len(of_prior) > 1 for of_prior in fusions.values())
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
    """Shows trees of several levels next to trees of only one of these levels."""
    ours = [row for row in section.rows if row.variant.ours and not row.variant.control]
    composed = [row for row in ours if len(row.variant.kinds) > 1]
    if not composed:
        return _lacking(8)

    # The rows are one head, the composed trees, and the trees of their single levels.
    kinds = {kind for row in composed for kind in row.variant.kinds}
    rows = [row for row in section.rows if row.variant.plain]
    rows += [row for row in ours if not row.variant.plain and set(row.variant.kinds) <= kinds]
    # Rows without a prior come first, composed trees last.
    rows.sort(key=lambda row: (len(row.variant.kinds), row.variant.segments))

    entries = []
    for row in rows:
        name = row.variant.name
        entries.append(_Entry(row, [name, row.label], name, section.kind(row)))
    return _table_of_values(8, section, entries)


def _table_9(section: Section) -> Table | Lacking:
    """Shows one model without parts of the training objective."""
    # The table shows the largest family of models that differ only in the ablated settings.
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
    """Returns the settings that the rows of Table 9 must share, as text."""
    shared = {key: value for key, value in config.items() if key not in _ABLATED}
    return json.dumps(shared, sort_keys=True)


def _ablation(row: Row, full: Row) -> str:
    """Names how a row differs from the full model, in the words of the paper."""
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
