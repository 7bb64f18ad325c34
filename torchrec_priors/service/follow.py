"""Follows a folder of published models: loads a new version beside the old one, and swaps them.

A version answers only after these steps. If one fails, the version is refused, which is said once,
and the old version stays.

    there is memory for two versions             `room.py`
    every byte is as it was published            `publishing/verify.py`
    it loads and warms up
    it gives the answers of its canary           `publishing/canary.py`
    later batches use it; the old one stays in memory if there is room    `versions.py`
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from threading import Event, Lock, Thread

from torchrec_priors.common.amounts import as_text
from torchrec_priors.common.system_errors import cannot
from torchrec_priors.errors import UserError
from torchrec_priors.publishing.canary import check_canary, read_canary
from torchrec_priors.publishing.current import CURRENT, Current, read_current
from torchrec_priors.publishing.folder import PublishedFolder
from torchrec_priors.publishing.verify import verify
from torchrec_priors.publishing.version import Manifest, MissingVersionError, read_manifest
from torchrec_priors.service.refusals import NoRoomError, Refusals, reason_of
from torchrec_priors.service.room import Room, give_back
from torchrec_priors.service.versions import NoPreviousError, Served, Versions
from torchrec_priors.serving.run import LoadedRun

log = logging.getLogger(__name__)

POLL_S = 5.0


class _EndingError(Exception):
    """The service ends while a version is being loaded."""


class Follower:
    """Keeps the version that answers equal to the published one. Any thread may call it."""

    def __init__(
        self,
        folder: Path,
        versions: Versions,
        load: Callable[[Path], LoadedRun],
        *,
        poll_s: float = POLL_S,
        room: Room | None = None,
        on_swap: Callable[[str], None] = lambda _: None,
    ) -> None:
        """
        Args:
            folder: the folder of published models.
            versions: gets the loaded versions.
            load: loads the model in the folder of a version.
            poll_s: the seconds between two looks at the folder.
            room: the memory that the service may use.
            on_swap: is called with "swapped" or "refused" when that has happened.
        """
        self._published = PublishedFolder(folder)
        self._versions = versions
        self._load = load
        self._poll_s = poll_s
        self._room = room or Room()
        self._on_swap = on_swap

        # Only one version is loaded at a time. The second lock is never held for long.
        self._loading = Lock()
        self._swapping = Lock()
        # What `current.json` said when it was last acted upon, and the versions in memory.
        self._seen: Current | None = None
        self._manifests: dict[str, Manifest] = {}
        # Whether a version was closed whose memory may not have been given back yet.
        self._has_closed = False
        self._previous: str | None = None
        self._refusals = Refusals(lambda: on_swap("refused"))
        self._rolled_back = False

        self._ends = Event()
        self._thread = Thread(target=self._poll, name="torchrec-priors-follow", daemon=True)

    def load_first(self) -> None:
        """Loads the published version. If it is bad, the newest older one that is good is used.

        Raises:
            UserError: nothing is published, or no version is good.
        """
        folder = self._published.path
        current = read_current(folder)
        if current is None:
            raise UserError(f"--follow: '{folder}' has no published version: publish one first")
        older = [name for name in self._published.newest_first() if name != current.version]
        for name in (current.version, *older):
            try:
                with self._loading:
                    self._load_and_swap(name, current)
                return
            except _EndingError:
                return
            except Exception as error:
                self._refuse(name, error)
        refusal = self._refusals.newest
        assert refusal is not None
        raise UserError(
            f"--follow: no version in '{folder}' can be served: publish one "
            f"('{refusal.version}': {refusal.reason})"
        )

    def start(self) -> None:
        """Begins to look at the folder, in a thread of its own."""
        self._thread.start()

    def stop(self, timeout: float = 0.0) -> None:
        """Loads no further version.

        Args:
            timeout: the most seconds to wait for a version that is being loaded.
        """
        self._ends.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def check(self) -> None:
        """Looks once at the folder, and loads the published version if it is another one."""
        with self._loading:
            # By now the last batch of the closed version has ended.
            if self._has_closed:
                self._has_closed = False
                give_back()

            try:
                current = read_current(self._published.path)
                if current is None:
                    raise UserError(f"'{self._published.path / CURRENT}' is missing")
            except (UserError, OSError) as error:
                self._refuse(None, error)
                return

            if current == self._seen:
                # The file was unreadable for a moment, and says what it said before.
                refusal = self._refusals.newest
                if refusal is not None and refusal.version is None:
                    self._refusals.forget()
                return
            self._follow(current)

    def rollback(self) -> str:
        """Goes back to the previous version, until another one is published; returns its name.

        If it is not in memory, it is loaded.

        Raises:
            NoPreviousError: there is no previous version, or it cannot be loaded any more.
            NoRoomError: there is no memory for it.
        """
        # This waits for no version that is being loaded.
        with self._swapping:
            replaced = self._versions.current
            try:
                name = self._versions.rollback().name
                self._note(replaced, None)
                in_memory = True
            except NoPreviousError:
                in_memory = False
        if not in_memory:
            with self._loading:
                name = self._load_previous()
        log.warning("version '%s' answers again, until another one is published", name)
        return name

    def described(self) -> dict[str, object]:
        """Returns the state as values that JSON has, for GET /v1/model."""
        refusal = self._refusals.newest
        return {
            "folder": str(self._published.path),
            "published": None if self._seen is None else self._seen.version,
            "rolled_back": self._rolled_back,
            "refused": None if refusal is None else asdict(refusal),
        }

    def _load_previous(self) -> str:
        """Loads the version that answered before the present one; returns its name."""
        name = self._previous
        if name is None:
            raise NoPreviousError("there is no previous version: publish the one that you want")
        try:
            self._load_and_swap(name, None)
        except (UserError, OSError) as error:
            raise NoPreviousError(
                f"version '{name}' cannot be loaded again ({reason_of(error)}): publish the one "
                "that you want"
            ) from error
        return name

    def _poll(self) -> None:
        while not self._ends.wait(self._poll_s):
            try:
                self.check()
            except Exception:
                # Without this thread, the service would keep an old version forever.
                log.exception("'%s' could not be looked at", self._published.path)

    def _follow(self, current: Current) -> None:
        """Loads the published version; notes whether it has to be tried again."""
        name = current.version
        try:
            has_changed = self._load_and_swap(name, current)
        except _EndingError:
            return
        except Exception as error:
            # Memory may become free, a disk may answer again, and a network folder may show files
            # late. Everything else stays bad until something is published.
            if not isinstance(error, NoRoomError | MissingVersionError | OSError):
                self._seen = current
            self._refuse(name, error)
            return
        self._refusals.forget()
        if has_changed:
            self._on_swap("swapped")

    def _load_and_swap(self, name: str, current: Current | None) -> bool:
        """Lets a version answer. The caller holds `_loading`.

        Args:
            name: the version.
            current: what `current.json` says, if this is why; None to go back to the version.

        Returns:
            Whether another version answered before.

        Raises:
            UserError: the version is bad.
            NoRoomError: there is no memory for it.
            OSError: it cannot be read.
        """
        folder = self._published.version(name)
        manifest = read_manifest(folder)
        with self._swapping:
            replaced = self._versions.current
            if self._is_loaded(replaced, manifest):
                self._note(None, current)
                return False
            if self._is_loaded(self._versions.previous, manifest):
                self._versions.rollback()
                self._note(replaced, current)
                log.info("version '%s' answers, which was in memory", name)
                return True

        self._make_room(manifest)
        log.info("loading version '%s'", name)
        started = time.monotonic()
        served = self._loaded(folder)
        with self._swapping:
            replaced = self._versions.current
            keep = self._room.has_spare()
            self._has_closed = self._versions.previous is not None or not keep
            self._versions.swap(served, keep=keep)
            self._note(replaced, current)
        self._manifests = {
            loaded: known
            for loaded, known in self._manifests.items()
            if replaced is not None and loaded == replaced.name
        }
        self._manifests[name] = manifest
        log.info("version '%s' answers, after %.1f s of loading", name, time.monotonic() - started)
        return True

    def _note(self, replaced: Served | None, current: Current | None) -> None:
        """Notes why a version answers. The caller holds `_swapping`, so no swap comes between.

        Args:
            replaced: the version that answered before; None if it is the same.
            current: what `current.json` says, if this is why; None after going back.
        """
        if replaced is not None:
            self._previous = replaced.name
        if current is not None:
            self._seen = current
        self._rolled_back = current is None

    def _is_loaded(self, served: Served | None, manifest: Manifest) -> bool:
        """Returns whether a version in memory is the one that a manifest describes."""
        if served is None:
            return False
        return served.name == manifest.name and self._manifests.get(served.name) == manifest

    def _make_room(self, manifest: Manifest) -> None:
        """Makes sure that there is memory for a version.

        Raises:
            NoRoomError: there is not enough.
        """
        needed = self._room.needed(manifest.bytes)
        if self._room.free() >= needed:
            return
        # While it is refused, this is tried at each look, and giving memory back takes time.
        if self._versions.drop_previous() or self._refusals.newest is None:
            give_back()
        free = self._room.free()
        if free < needed:
            raise NoRoomError(
                f"it needs about {as_text(needed)} beside the present one, and {as_text(free)} are "
                "left: give the service more memory, or start it again"
            )

    def _loaded(self, folder: Path) -> Served:
        """Loads a version and tries it out.

        Raises:
            UserError: the version is bad.
            OSError: it cannot be read.
        """
        manifest = verify(folder)
        canary = read_canary(folder)
        self._check_ending()
        with self._room.loading(manifest.bytes):
            run = self._opened(folder)
            try:
                run.warm_up()
                if not check_canary(run, canary):
                    log.info(
                        "version '%s': the data set has changed since it was published, so the "
                        "answers to its canary were not compared",
                        manifest.name,
                    )
                self._check_ending()
            except BaseException:
                run.close()
                raise
        return Served(manifest.name, run, time.time())

    def _opened(self, folder: Path) -> LoadedRun:
        """Loads the model of a version whose files are whole."""
        try:
            return self._load(folder)
        except OSError as error:
            # Loading takes long, so it is not tried again at each look.
            raise cannot(f"'{folder}' cannot be loaded", error) from error

    def _check_ending(self) -> None:
        if self._ends.is_set():
            raise _EndingError

    def _refuse(self, version: str | None, error: Exception) -> None:
        current = self._versions.current
        self._refusals.add(version, error, None if current is None else current.name)
