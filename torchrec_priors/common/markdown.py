"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a table.

    >>> table_lines(["a", "b"], [["1", "2"]])
    ['| a | b |', '| --- | --- |', '| 1 | 2 |']
    """
    cells_of_lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in cells_of_lines]
