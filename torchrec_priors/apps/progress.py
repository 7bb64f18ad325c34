"""Shows progress bars on standard error, if it is a terminal."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def stage_bar() -> tqdm:
    """Returns a bar that shows the current stage and its duration.

    The caller sets the name of the stage with `set_description_str`.
    """
    return tqdm(bar_format="{desc} [{elapsed}]", leave=False, disable=None)


def with_progress(values: Iterable[T], total: int, unit: str, *, leads: bool) -> Iterable[T]:
    """Yields the same values, and shows on the leading rank how many have been taken."""
    # None shows the bar if standard error is a terminal. False would always show it.
    disable = None if leads else True
    return tqdm(values, total=total, unit=unit, disable=disable)
