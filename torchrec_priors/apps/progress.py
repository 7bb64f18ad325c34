"""Progress bars on standard error, which are shown only on a terminal."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def stage_bar() -> tqdm:
    """Returns a line with the current stage, set by `set_description_str`, and its duration."""
    return tqdm(bar_format="{desc} [{elapsed}]", leave=False, disable=None)


def with_progress(values: Iterable[T], total: int, unit: str, *, leads: bool) -> Iterable[T]:
    """Counts values as they are taken, on the leading rank only."""
    # None shows the bar if standard error is a terminal; False would show it always.
    disable = None if leads else True
    return tqdm(values, total=total, unit=unit, disable=disable)
