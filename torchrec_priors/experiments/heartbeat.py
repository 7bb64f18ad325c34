"""Logs where the runs of an experiment are, so that none is silent for minutes."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

log = logging.getLogger(__name__)

# The number of seconds between two reports.
_EVERY = 30.0
# The last line of a log is in its last bytes.
_TAIL = 65_536


@dataclass(frozen=True)
class Running:
    """A run that is being trained or evaluated.

    Attributes:
        name: the name of the run.
        metrics: its file `metrics.jsonl`.
        steps: the number of steps of its schedule.
    """

    name: str
    metrics: Path
    steps: int


@contextmanager
def heartbeat(running: Callable[[], Iterable[Running]], every: float = _EVERY) -> Iterator[None]:
    """Within this block, logs every `every` seconds the step of each run that is running.

    Args:
        running: returns the runs that are running now.
        every: the number of seconds between two reports.
    """
    done = Event()

    def report() -> None:
        while not done.wait(every):
            texts = [_in_words(run) for run in running()]
            if texts:
                log.info("running: %s", "; ".join(texts))

    thread = Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _in_words(run: Running) -> str:
    step = _last_step(run.metrics)
    if step is None:
        return f"{run.name} is starting"
    if step >= run.steps:
        return f"{run.name} is evaluated"
    return f"{run.name} at step {step:,} of {run.steps:,}"


def _last_step(metrics: Path) -> int | None:
    """Returns the last logged step; None if nothing is logged yet."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - _TAIL))
            # What follows the last line break is not written to its end.
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"]) if lines else None
    except (OSError, ValueError, KeyError):
        return None
