"""Table 9 of the paper: one model with other settings of the training objective."""

import json
from typing import Any

from torchrec_priors.report import paper
from torchrec_priors.report.page_table import Lacking, Line, Table, percent, plain
from torchrec_priors.report.sections import Row, Section

_ABLATED = ("seed", "loss.gamma", "loss.balance", "negatives.catalogue_share")
_TITLE = "Table 9: ablations of the training objective"


def table_9(section: Section) -> Table | Lacking:
    families: dict[str, list[Row]] = {}
    for row in section.rows:
        if row.variant.ours:
            families.setdefault(_family(row.config), []).append(row)
    family = max(families.values(), key=len, default=[])
    if len(family) < 2:
        return Lacking(
            _TITLE,
            "two runs that differ in loss.gamma, loss.balance or negatives.catalogue_share alone",
        )
    full = min(
        family,
        key=lambda row: (not row.variant.in_group, row.variant.balance != 1, -row.variant.gamma),
    )
    theirs = paper.figures(9, section)
    lines = []
    for row in sorted(
        family,
        key=lambda row: (
            row is not full,
            row.variant.in_group,
            row.variant.balance,
            -row.variant.gamma,
        ),
    ):
        name = _name(row, full)
        cells = [
            percent(row.mean("recall@10")),
            percent(row.mean("ndcg@10")),
            plain(row.mean("entropy@10")),
        ]
        lines.append(Line([f"Full model ({name})" if row is full else name, row.label, *cells]))
        if name in theirs:
            lines.append(
                Line([f"paper, {name}", "", *(f"{one:g}" for one in theirs[name])], "paper")
            )
    head = ["Ablation", "Run", "Recall@10 (%)", "NDCG@10 (%)", "Entropy@10"]
    return Table(
        "table-9", _TITLE, head, lines, notes=["Entropy in bits.", *paper.about(9, section)]
    )


def _family(config: dict[str, Any]) -> str:
    return json.dumps(
        {key: value for key, value in config.items() if key not in _ABLATED}, sort_keys=True
    )


def _name(row: Row, full: Row) -> str:
    ours = row.variant
    whole = full.variant
    parts = []
    if not ours.in_group:
        parts.append("w/o in-group negative sampling")
    if ours.balance != 1:
        parts.append(
            "w/o frequency balancing" if ours.balance == 0 else f"balance = {ours.balance:g}"
        )
    if not parts or ours.gamma != whole.gamma:
        parts.append(f"γ = {ours.gamma:g}")
    return ", ".join(parts)
