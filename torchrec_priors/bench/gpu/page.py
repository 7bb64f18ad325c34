"""Writes the report as a Markdown page. It needs nothing but Python."""

from typing import Any

from torchrec_priors.common.markdown import table_lines

_MEANINGS = {
    "machine": "What the device is, and the rates that other sections are compared with.",
    "parity": (
        "The error of every Triton kernel, relative to the norm of its reference's result. A row "
        "that is not `ok` names a kernel that computes something else on this device."
    ),
    "attention": (
        "The rate of HSTU's attention by its useful FLOPs, and its share of the rate of a large "
        "matrix product in the same type. A low share at short sequences is padding of tiles; one "
        "at long sequences is the kernel itself."
    ),
    "steps": (
        "A whole training step. `idle share` is the part of the time in which the device waits for "
        "its host: if it is large, launches and waits cost more than kernels. `host waits` should "
        "be 2."
    ),
    "search": (
        "A search of the whole catalogue for a batch of users, and what item vectors of 16 bits "
        "would save."
    ),
}


def page_of(report: dict[str, Any]) -> str:
    """Returns the page.

    Args:
        report: what `tools/gpu_report.py` writes as JSON.
    """
    lines = ["# Report of a GPU", ""]
    if not report["has_gpu"]:
        lines += [
            "There was no GPU: kernels ran in Triton's interpreter, at tiny sizes. The times on "
            "this page are no measure of anything.",
            "",
        ]
    lines += [f"Commit `{report['commit']}`, {report['seconds']:.0f} s in all.", ""]
    lines += table_lines(
        ["section", "result", "s", "rows", "not ok"],
        [_summary(name, section) for name, section in report["sections"].items()],
    )
    for name, section in report["sections"].items():
        kind = name.partition("_")[0]
        lines += ["", f"## {name}", "", _MEANINGS.get(kind, _MEANINGS["steps"])]
        for table, rows in _tables(section["rows"]).items():
            columns = list(dict.fromkeys(column for row in rows for column in row))
            cells = [[_cell(row.get(column)) for column in columns] for row in rows]
            lines += ["", f"**{table}**", "", *table_lines(columns, cells)]
        if section["error"]:
            lines += ["", "```", section["error"], "```"]
    return "\n".join(lines) + "\n"


def failures(report: dict[str, Any]) -> list[str]:
    """Returns the sections that did not end, or have a row that is not right."""
    return [
        name
        for name, section in report["sections"].items()
        if section["result"] != "ok" or _not_ok(section)
    ]


def _summary(name: str, section: dict[str, Any]) -> list[str]:
    numbers = (section["seconds"], len(section["rows"]), _not_ok(section))
    return [name, section["result"], *map(_cell, numbers)]


def _not_ok(section: dict[str, Any]) -> int:
    return sum(entry["row"].get("ok") is False for entry in section["rows"])


def _tables(entries: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        tables.setdefault(entry["table"], []).append(entry["row"])
    return tables


def _cell(value: object) -> str:
    """Writes a value; numbers have three significant digits, or all digits before the point.

    >>> _cell(0.12345), _cell(123456.7), _cell(True), _cell(None), _cell(2.0)
    ('0.123', '123,457', 'yes', '', '2')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
