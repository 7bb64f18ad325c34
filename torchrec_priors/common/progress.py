"""Shows progress on standard error: bars on a terminal, and elsewhere a line every few seconds.

Elsewhere is a file, a pipe, a notebook or a launcher that collects the lines of all processes. What
takes less than a few seconds prints no lines.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

# The number of seconds between two lines if standard error is not a terminal.
EVERY = 5.0
# The number of seconds after which the duration on a terminal is updated.
_REFRESH = 1.0


def stage_bar() -> tqdm:
    """Returns a bar that shows the current stage and its duration.

    The caller sets the name of the stage with `set_description_str`.
    """
    return tqdm(bar_format="{desc} [{elapsed}]", leave=False, disable=None)


@contextmanager
def stages(every: float = EVERY, *, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """Shows the current stage and its duration, as a bar on a terminal and as lines elsewhere.

    A line is printed every `every` seconds, even if the stage has not changed. It is late if a
    library holds the lock of the interpreter.

    Args:
        every: the number of seconds between two lines.
        shown: False to show nothing.

    Yields:
        A function that sets the name of the current stage.
    """
    if not shown:
        yield lambda _text: None
        return

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
                    print_line(f"{stage} [{in_clock_form(monotonic() - start)}]")

        thread = Thread(target=show, daemon=True)
        thread.start()
        try:
            yield report
        finally:
            done.set()
            thread.join()


def with_progress(
    values: Iterable[T], total: int, unit: str, *, leads: bool, doing: str = ""
) -> Iterable[T]:
    """Yields the same values, and shows on the leading rank how many have been taken.

    Args:
        total: the number of values.
        unit: the word for a value, such as "batch".
        leads: whether this rank shows it.
        doing: what is done with the values, for the lines.
    """
    if not leads:
        return values
    if sys.stderr is not None and sys.stderr.isatty():
        return tqdm(values, total=total, unit=unit, desc=doing or None)
    return _with_lines(values, total, unit, doing or "done")


def _with_lines(values: Iterable[T], total: int, unit: str, doing: str) -> Iterator[T]:
    start = monotonic()
    lines = Lines()
    for done, value in enumerate(values):
        if done and lines.is_due():
            left = (monotonic() - start) / done * (total - done)
            print_line(f"{doing}: {unit} {done:,} of {total:,}, {in_clock_form(left)} left")
        yield value


@contextmanager
def shown_messages(shown: bool) -> Iterator[None]:
    """Within this block, this package's messages are printed, as the apps print theirs.

    A program that has set up logging for such messages gets them anyway.

    Args:
        shown: False to change nothing.
    """
    logger = logging.getLogger("torchrec_priors")
    if not shown or logger.isEnabledFor(logging.INFO):
        yield
        return

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class Lines:
    """Says when the next line is due: `EVERY` seconds after the start, and after each line."""

    def __init__(self) -> None:
        self._last = monotonic()

    def is_due(self) -> bool:
        """Returns whether a line is due; then the time to the next one begins."""
        now = monotonic()
        if now - self._last < EVERY:
            return False
        self._last = now
        return True


def print_line(text: str) -> None:
    """Prints a line to standard error at once, even if it is a pipe."""
    if sys.stderr is not None:
        # One call writes text and line break together, so that TorchX finds no half of a line.
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def in_clock_form(seconds: float) -> str:
    """Returns a duration as minutes and seconds, with hours if there are any.

    >>> in_clock_form(75), in_clock_form(7384)
    ('01:15', '2:03:04')
    """
    text: str = tqdm.format_interval(seconds)
    return text
