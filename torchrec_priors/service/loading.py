"""Loads the model of a service: one run, or whatever is published in a folder."""

import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torchrec_priors.common.memory import give_back_freed_memory, keep_freed_memory
from torchrec_priors.remote.uri import Place
from torchrec_priors.service.follow import Follower
from torchrec_priors.service.versions import Served, Versions
from torchrec_priors.serving.catalogue import Catalogue
from torchrec_priors.serving.run import LoadedRun, load_run
from torchrec_priors.training.open_run import OpenRun, open_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loading:
    """How a model is loaded.

    Attributes:
        data: the data set of the run, if it has moved since training.
        trust: whether to run the custom code that the run was trained with.
        threads: the most threads that answer a batch; None for as many as PyTorch has.
        cache_bytes: the most memory for the queries of users; 0 to keep none.
    """

    data: Place | str | None
    trust: bool
    threads: int | None
    cache_bytes: int

    def open(self, run: Place) -> OpenRun:
        """Checks a run, which takes little time; `load` loads it.

        Raises:
            UserError: the run cannot be served.
        """
        return open_run(run, self.data, trust=self.trust)

    def load(self, run: OpenRun | Path) -> LoadedRun:
        """Loads a run. Every rank must call it.

        Raises:
            UserError: the run cannot be loaded.
        """
        if isinstance(run, OpenRun):
            loaded = LoadedRun(run, Catalogue.of(run.data))
        else:
            loaded = load_run(run, self.data, trust=self.trust)
        if self.threads is not None:
            loaded.path.threads = self.threads
        loaded.keep_queries(self.cache_bytes)

        # What only loading needed goes back; what a batch frees is there for the next one.
        give_back_freed_memory()
        keep_freed_memory()
        return loaded


class Source:
    """Where the versions of a service come from.

    Attributes:
        follower: follows a folder of published models; None for one run.
    """

    def __init__(
        self,
        loading: Loading,
        versions: Versions,
        run: OpenRun | None,
        folder: Path | None,
        poll_s: float,
        on_swap: Callable[[str], None],
    ) -> None:
        """
        Args:
            loading: how a model is loaded.
            versions: gets the loaded versions.
            run: the run, if there is no folder.
            folder: the folder of published models, if there is no run.
            poll_s: the seconds between two looks at the folder.
            on_swap: see `Follower`.
        """
        self._loading = loading
        self._versions = versions
        self._run = run
        self.follower: Follower | None = None
        if folder is not None:
            self.follower = Follower(folder, versions, loading.load, poll_s=poll_s, on_swap=on_swap)

    def load_first(self) -> None:
        """Loads the first version, and lets it answer.

        Raises:
            UserError: there is none that can be loaded.
        """
        _freeze()
        began = time.monotonic()
        if self.follower is not None:
            self.follower.load_first()
            self.follower.start()
            return

        assert self._run is not None
        manifest = self._run.data.manifest
        log.info(
            "loading '%s': data set '%s' with %s items and %s users",
            self._run.folder,
            manifest.name,
            f"{manifest.counts['items']:,}",
            f"{self._run.data.users:,}",
        )
        run = self._loading.load(self._run)
        run.warm_up()

        # Nothing replaces this run. A version that is followed may be replaced, and what was frozen
        # would stay in memory.
        _freeze()
        self._versions.swap(Served(run.checkpoint, run, time.time()))
        log.info("%s answers, after %.1f s of loading", run.checkpoint, time.monotonic() - began)

    def stop(self, timeout: float) -> None:
        """Loads no further version; waits for one that is being loaded, for at most `timeout`."""
        if self.follower is not None:
            self.follower.stop(timeout)


def _freeze() -> None:
    """Lets the garbage collector leave alone what is in memory, as it lives as long as the process.

    Looking at it again and again would stop all requests for tens of milliseconds each time.
    """
    gc.collect()
    gc.freeze()
