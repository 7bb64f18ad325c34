"""How a section hands over its rows: by a function, row by row, so that a crash loses none."""

from collections.abc import Callable

# Called with the name of a table and a row: name of a column -> value.
Report = Callable[[str, dict[str, object]], None]
