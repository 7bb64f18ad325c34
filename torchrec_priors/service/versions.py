"""The versions of the model that are in memory: one answers, and one may be kept to go back to."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.serving.run import LoadedRun

log = logging.getLogger(__name__)


class NotReadyError(OutsideError):
    """No version answers: the first one is still being loaded, or the service ends."""


class NoPreviousError(UserError):
    """There is no previous version to go back to."""


@dataclass(frozen=True, eq=False)
class Served:
    """A version of the model in memory.

    Attributes:
        name: the name of the version.
        run: the loaded run. `Versions` closes it.
        loaded_at: when it was loaded, in seconds since 1970.
    """

    name: str
    run: LoadedRun
    loaded_at: float


class Versions:
    """The version that answers, and the previous one. Any thread may call it.

    A version is used inside a lease. A version that is no longer needed is closed once, when its
    last lease has ended.
    """

    def __init__(self, current: Served | None = None) -> None:
        """
        Args:
            current: the first version; None if it is not loaded yet.
        """
        self._changed = Condition()
        self._current = current
        self._previous: Served | None = None
        self._leases: dict[Served, int] = {}
        self._leaving: set[Served] = set()

    @property
    def current(self) -> Served | None:
        """The version that answers; None if there is none."""
        return self._current

    @property
    def previous(self) -> Served | None:
        """The version that `rollback` goes back to; None if there is none."""
        return self._previous

    @contextmanager
    def lease(self) -> Iterator[Served]:
        """Gives the current version to the block. The version stays open until the block ends.

        Raises:
            NotReadyError: no version answers.
        """
        with self._changed:
            served = self._current
            if served is None:
                raise NotReadyError("no model is loaded yet: try again later")
            self._leases[served] = self._leases.get(served, 0) + 1
        try:
            yield served
        finally:
            self._end(served)

    def swap(self, served: Served, *, keep: bool = True) -> None:
        """Lets another version answer all further leases.

        Args:
            served: the version.
            keep: whether the version that answered until now is kept in memory for `rollback`.
                The previous version before it is closed in any case.
        """
        with self._changed:
            replaced = self._current
            unused = [self._previous]
            self._current = served
            self._previous = replaced if keep else None
            if not keep:
                unused.append(replaced)
            closing = self._leave(unused)
        _close(closing)

    def rollback(self) -> Served:
        """Exchanges the current and the previous version; returns the one that answers now.

        Raises:
            NoPreviousError: there is no previous version.
        """
        with self._changed:
            if self._previous is None:
                raise NoPreviousError(
                    "there is no previous version in memory: publish the version that you want"
                )
            replaced = self._current
            self._current = self._previous
            self._previous = replaced
            return self._current

    def drop_previous(self) -> bool:
        """Closes the previous version, to free its memory; returns whether there was one."""
        with self._changed:
            dropped = self._previous
            self._previous = None
            closing = self._leave([dropped])
        _close(closing)
        return dropped is not None

    def close(self, timeout: float | None = None) -> bool:
        """Gives no further lease, and closes all versions when their leases have ended.

        Args:
            timeout: the seconds to wait for leases; None to wait for as long as they take.

        Returns:
            Whether all leases ended in time. Otherwise the end of the last lease of a version
            closes it.
        """
        with self._changed:
            closing = self._leave([self._current, self._previous])
            self._current = None
            self._previous = None
        _close(closing)
        with self._changed:
            return self._changed.wait_for(lambda: not self._leases, timeout)

    def _leave(self, unused: list[Served | None]) -> list[Served]:
        """Notes that versions are not needed any more; returns those that nobody leases.

        A thread that holds the lock calls it.
        """
        left = [served for served in unused if served is not None]
        self._leaving.update(served for served in left if served in self._leases)
        return [served for served in left if served not in self._leases]

    def _end(self, served: Served) -> None:
        """Ends a lease; closes the version if it was the last lease of an unneeded version."""
        closing = []
        with self._changed:
            self._leases[served] -= 1
            if not self._leases[served]:
                del self._leases[served]
                if served in self._leaving:
                    self._leaving.remove(served)
                    closing.append(served)
        _close(closing)
        with self._changed:
            self._changed.notify_all()


def _close(versions: list[Served]) -> None:
    """Closes versions. An error is logged, as the caller needs them no more."""
    for served in versions:
        try:
            served.run.close()
        except Exception:
            log.exception("version '%s' could not be closed", served.name)
