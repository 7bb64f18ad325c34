"""Writes rows as a Markdown table."""

from collections.abc import Sequence

from torchrec_priors.bench.rows import Row
from torchrec_priors.common.markdown import table_lines

_HEAD = (
    "variant",
    "median",
    "spread",
    "tokens/s",
    "peak memory",
    "speedup",
    "memory ratio",
    "limit share",
    "result",
)
_PARTS = ("forward", "backward", "sent by a rank", "memory of the table")


def table(rows: Sequence[Row]) -> str:
    """Writes a table with a line for each row, and the machine's limit below it."""
    head = list(_HEAD)
    if rows[0].forward_s is not None:
        head += _PARTS

    lines = [f"# {rows[0].shape}", "", *table_lines(head, [_cells(row) for row in rows])]
    for row in rows:
        if row.variant == "ours":
            rate = f"matrix products on this machine: {row.matmul_flops_per_s / 1e9:,.0f} GFLOP/s"
            lines += ["", f"unavoidable: {row.flops / 1e9:,.1f} GFLOP; {rate}"]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    """Writes the cells of a row."""
    cells = [
        row.variant,
        f"{row.median_s:.3f} s",
        f"± {row.spread:.0%}",
        f"{row.tokens_per_s:,.0f}",
        f"{row.peak_bytes / 1e9:.2f} GB",
        _ratio(row.speedup),
        _ratio(row.memory_ratio),
        _ratio(row.limit_share),
        f"{row.result:.6f}",
    ]

    if row.forward_s is not None:
        sent = (row.sent_bytes or 0) / 1e6
        extra = row.extra_bytes / 1e9
        cells += [f"{row.forward_s:.3f} s", f"{row.median_s - row.forward_s:.3f} s"]
        cells += [f"{sent:.1f} MB", f"{extra:.2f} GB"]
    return cells


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
