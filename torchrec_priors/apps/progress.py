"""Shows progress on standard error, as bars on a terminal and for some apps as lines elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

# The number of seconds between two lines if standard error is not a terminal. A command that takes
# less time prints no lines.
_EVERY = 5.0
# The number of seconds after which the duration on a terminal is updated.
_REFRESH = 1.0


def stage_bar() -> tqdm:
    """Returns a bar that shows the current stage and its duration.

    The caller sets the name of the stage with `set_description_str`.
    """
    return tqdm(bar_format="{desc} [{elapsed}]", leave=False, disable=None)


@contextmanager
def stages(every: float = _EVERY) -> Iterator[Callable[[str], None]]:
    """Shows the current stage and its duration, as a bar on a terminal and as lines elsewhere.

    A line is printed every `every` seconds, even if the stage has not changed. It is late if a
    library holds the lock of the interpreter.

    Yields:
        A function that sets the name of the current stage.
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
    """Yields the same values, and shows on the leading rank how many have been taken."""
    # None shows the bar if standard error is a terminal. False would always show it.
    disable = None if leads else True
    return tqdm(values, total=total, unit=unit, disable=disable)
