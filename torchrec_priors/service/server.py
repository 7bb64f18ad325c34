"""The service as a process: it listens, loads the model, answers, and ends when it is told to."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket

from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.ranks.variables import read_launch
from torchrec_priors.remote.uri import Place
from torchrec_priors.service.app import make_app
from torchrec_priors.service.batcher import Batcher
from torchrec_priors.service.direct import Entry
from torchrec_priors.service.http_server import HttpServer
from torchrec_priors.service.listening import hosts_of, open_socket, url_of
from torchrec_priors.service.loading import Loading, Source
from torchrec_priors.service.logs import JsonHandler, Lines, RequestLog
from torchrec_priors.service.metrics import Metrics
from torchrec_priors.service.on_ranks import Leader, follow
from torchrec_priors.service.parts import Limits, Parts
from torchrec_priors.service.versions import Versions
from torchrec_priors.serving.run import LoadedRun
from torchrec_priors.state.opening import open_store
from torchrec_priors.training.open_run import OpenRun

log = logging.getLogger(__name__)

# Seconds for answers that are computed when all connections have ended already.
_LAST_BATCH = 1.0


@dataclass(frozen=True)
class Settings:
    """What a service is started with.

    Attributes:
        run: the folder or URI of the run; None to follow a folder.
        follow: the folder of published models to follow; None to serve a run.
        poll_s: the seconds between two looks at this folder.
        loading: how a model is loaded.
        name: the name of the model.
        host, port: the address of the service.
        token: the token that calls must carry; None for none.
        origins: the origins whose pages may call the service.
        state: the URI of the store of users' events; None for a file in the run's folder.
        queue: the most requests that wait.
        batch: the most requests in a batch.
        wait_s: the most seconds that a batch waits for further requests.
        drain_s: the most seconds that requests get when the service ends.
        limits: what a client may ask.
    """

    run: Place | None
    follow: Path | None
    poll_s: float
    loading: Loading
    name: str
    host: str
    port: int
    token: str | None
    origins: tuple[str, ...]
    state: str | None
    queue: int
    batch: int
    wait_s: float
    drain_s: float
    limits: Limits


def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serves until a signal ends it. Every rank of a launcher must call it.

    Args:
        settings: what the service is started with.
        on_ready: is called on rank 0, with the URL of the service, when it answers requests.

    Raises:
        UserError: the address cannot be used, or the run cannot be loaded.
        LostRanksError: other ranks did not answer.
    """
    launch = read_launch()
    ranks = 1 if launch is None else launch.world
    if ranks > 1 and settings.follow is not None:
        raise UserError(
            f"--follow: {ranks} processes serve one run: give --run, or start one process"
        )
    opened = None if settings.run is None else settings.loading.open(settings.run)
    if launch is not None and launch.rank:
        assert opened is not None
        with settings.loading.load(opened) as run:
            run.warm_up()
            follow(run)
        return

    bound = open_socket(settings.host, settings.port)
    requests = RequestLog(name=settings.name)
    try:
        with _json_lines(requests.lines):
            _Service(settings, opened, bound, ranks, on_ready, requests).run()
    finally:
        bound.close()


class _Service:
    """A service, from its start to its end. It is rank 0 if there are several ranks."""

    def __init__(
        self,
        settings: Settings,
        opened: OpenRun | None,
        bound: socket,
        ranks: int,
        on_ready: Callable[[str], None],
        requests: RequestLog,
    ) -> None:
        """
        Args:
            settings: what it is started with.
            opened: the run, which is not loaded yet; None to follow a folder.
            bound: the socket of its address.
            ranks: the number of ranks.
            on_ready: see `serve`.
            requests: writes a line for each request.
        """
        self._settings = settings
        self._bound = bound
        self._on_ready = on_ready
        self._error: BaseException | None = None
        self._ends_since: float | None = None
        self._leader = Leader(self._lost) if ranks > 1 else None

        metrics = Metrics()
        versions = Versions()
        batcher = Batcher(
            versions,
            most=settings.batch,
            wait=settings.wait_s,
            queue=settings.queue,
            answer=LoadedRun.answer if self._leader is None else self._leader.answer,
            on_batch=metrics.batch,
            on_lost=self._lost,
        )
        self._source = Source(
            settings.loading,
            versions,
            opened,
            settings.follow,
            settings.poll_s,
            metrics.swap,
        )
        place = settings.follow if opened is None else opened.folder.path
        assert place is not None
        self._parts = Parts(
            versions,
            batcher,
            store=open_store(settings.state, place),
            model_name=settings.name,
            limits=settings.limits,
            token=settings.token,
            hosts=hosts_of(settings.host),
            origins=settings.origins,
            metrics=metrics,
            log=requests,
            following=self._source.follower,
        )
        self._http = HttpServer(Entry(make_app(self._parts)), settings.drain_s, self._begin_to_end)

    def run(self) -> None:
        """Serves until a signal ends it.

        Raises:
            BaseException: the error that has ended it.
        """
        with asyncio.Runner(loop_factory=self._http.config.get_loop_factory()) as runner:
            runner.run(self._serve())
        if self._parts.store is not None:
            self._parts.store.close()
        if self._ends_since is not None:
            log.info("stopped after %.1f s", time.monotonic() - self._ends_since)
        if self._error is not None:
            raise self._error

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self._http.serve(sockets=[self._bound]))
        # Clients hear that the service is not ready while the model is being loaded.
        loading = asyncio.create_task(asyncio.to_thread(self._load))
        loading.add_done_callback(self._has_loaded)
        await serving

        await asyncio.wait([loading])
        await self._parts.batcher.drain(_LAST_BATCH)
        if self._error is None:
            await asyncio.to_thread(self._close)

    def _load(self) -> None:
        """Loads the model, and lets it answer."""
        self._source.load_first()
        served = self._parts.versions.current
        if served is None or self._parts.draining:
            # The service ends already.
            return
        if self._leader is not None:
            self._leader.start(served.run)
        self._on_ready(url_of(self._bound))

    def _has_loaded(self, loading: "asyncio.Task[None]") -> None:
        error = loading.exception()
        if error is not None and not self._parts.draining:
            self._fail(error)

    def _close(self) -> None:
        """Ends the other ranks, and closes the model."""
        served = self._parts.versions.current
        if self._leader is not None and served is not None:
            try:
                self._leader.end(served.run)
            except OutsideError as error:
                self._error = error
                return
        self._parts.versions.close(_LAST_BATCH)

    def _begin_to_end(self, in_flight: int) -> None:
        self._parts.draining = True
        self._ends_since = time.monotonic()
        log.info("stopping: %d requests in flight", in_flight)
        self._source.stop(0.0)

    def _lost(self, error: OutsideError) -> None:
        """Ends the service with an error. Any thread may call it."""
        self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: BaseException) -> None:
        """Ends the service with an error, without waiting for answers that cannot come."""
        if self._error is None:
            self._error = error
        self._http.end()
        self._http.force_exit = True


@contextmanager
def _json_lines(lines: Lines) -> Iterator[None]:
    """Writes all messages of loggers as JSON lines until the block ends."""
    root = logging.getLogger()
    before = root.handlers
    root.handlers = [JsonHandler(lines)]
    try:
        yield
    finally:
        root.handlers = before
        lines.close()
