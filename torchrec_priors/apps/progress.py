"""Progress on standard error: bars on a terminal, and for some apps lines elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

# The seconds between two lines where standard error is no terminal. A command that takes less time
# prints none.
_EVERY = 5.0
# The seconds after which the duration on a terminal is shown anew.
_REFRESH = 1.0


def stage_bar() -> tqdm:
    """Returns a line with the current stage, set by `set_description_str`, and its duration."""
    return tqdm(bar_format="{desc} [{elapsed}]", leave=False, disable=None)


@contextmanager
def stages(every: float = _EVERY) -> Iterator[Callable[[str], None]]:
    """Shows the current stage and its duration, on a terminal as a bar, elsewhere as lines.

    A line is printed every `every` seconds, also if the stage has not changed. While a library
    keeps the lock of the interpreter, the line is late.

    Yields:
        A function that sets the current stage.
    """
    done = Event()
    with stage_bar() as bar:
        is_terminal = not bar.disable
        stage = "starting"

        def report(text: str) -> None:
            nonlocal stage
            stage = text
            if is_terminal:
                bar.set_description_str(text)

        def show() -> None:
            start = monotonic()
            pause = _REFRESH if is_terminal else every
            while not done.wait(pause):
                if is_terminal:
                    bar.refresh()
                else:
                    elapsed = tqdm.format_interval(monotonic() - start)
                    print(f"{stage} [{elapsed}]", file=sys.stderr, flush=True)

        thread = Thread(target=show, daemon=True)
        thread.start()
        try:
            yield report
        finally:
            done.set()
            thread.join()


def with_progress(values: Iterable[T], total: int, unit: str, *, leads: bool) -> Iterable[T]:
    """Counts values as they are taken, on the leading rank only."""
    # None shows the bar if standard error is a terminal; False would show it always.
    disable = None if leads else True
    return tqdm(values, total=total, unit=unit, disable=disable)
