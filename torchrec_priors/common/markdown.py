"""Writes tables in Markdown."""

from collections.abc import Iterable, Sequence


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table.

    Args:
        head: the cells of the first line.
        rows: the cells of the other lines.

    >>> table_lines(["a", "b"], [["1", "2"]])
    ['| a | b |', '| --- | --- |', '| 1 | 2 |']
    """
    cells_of_lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in cells_of_lines]
