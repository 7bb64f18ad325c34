"""The store at which the ranks of a launcher meet.

torchrun keeps one store for all its attempts, with what workers wrote there: after a restart, ranks
would look for processes that are gone. So rank 0 opens a store for each attempt, and the launcher's
store only says where that is. Each rank writes there that it has come. Ranks that have not are
named, soon in a warning and in the end in an error.
"""

import itertools
import logging
import socket
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from torchrec_priors.errors import LostRanksError, UserError
from torchrec_priors.ranks.variables import Launch, for_one_process

log = logging.getLogger(__name__)

_PLACE = "torchrec_priors/store"
_HERE = "torchrec_priors/here"
_opened = itertools.count()  # stores so far: the same number in the processes of all ranks
_LOOK_AGAIN = 0.05  # seconds between looks
_SAY_AFTER = 10.0  # seconds of waiting before a warning
_SOON = 20.0  # seconds for what should be there already
_LINGER = 2.0  # seconds for other ranks to read why the start fails


def open_store(launch: Launch, timeout: timedelta) -> tuple[dist.Store, str]:
    """The store of this attempt, after all ranks have come, and a name of the attempt. Every rank
    must call it.

    Raises:
        LostRanksError: some ranks did not come within `timeout`.
        UserError: the launcher's address does not exist, or something else uses the port.
    """
    # Keys have the store's number, as one process may open several, one after another.
    number = next(_opened)
    waiting = _Waiting(launch, timeout)

    try:
        if launch.agent:
            store = _at_the_agents(launch, timeout, waiting, f"{_PLACE}/{number}")
        else:
            store = _at_rank_0(launch, timeout, waiting)
        _all_come(store, f"{_HERE}/{number}", launch, waiting)
    except dist.DistError as error:
        # A store that is stuck, or something else that listens at the port.
        reason = " ".join(str(error).split())[:200]
        message = f"the ranks could not meet at {launch.host}:{launch.port} ({reason}): start again"
        raise LostRanksError(message, speaks=True) from error
    return store, str(store.port)


class _Waiting:
    """A wait for other ranks that ends, and says after a while which ones it waits for."""

    def __init__(self, launch: Launch, timeout: timedelta) -> None:
        self.seconds = timeout.total_seconds()
        self._launch = launch
        self._started = time.monotonic()
        self._warned = False

    def until(self, come: Callable[[], bool], missing: Callable[[], list[int]]) -> None:
        """Waits until `come` returns True.

        Args:
            come: whether the others have come.
            missing: function that returns the ranks that have not.

        Raises:
            LostRanksError: they did not come in time.
        """
        # The pause grows: most waits are short, and long ones must not load the store.
        pause = 0.001
        while not come():
            waited = time.monotonic() - self._started
            if waited > self.seconds:
                raise self._lost(missing())
            if waited > _SAY_AFTER and not self._warned:
                self._warned = True
                self._warn(missing())
            time.sleep(pause)
            pause = min(_LOOK_AGAIN, 2 * pause)

    def _warn(self, missing: list[int]) -> None:
        if not self._speaks(missing):
            return
        # Warnings of other ranks than 0 are not shown.
        level = logging.ERROR if self._launch.rank else logging.WARNING
        log.log(
            level,
            "rank %d waits for %s: %g s at most",
            self._launch.rank,
            self._in_words(missing),
            self.seconds,
        )

    def _lost(self, missing: list[int]) -> LostRanksError:
        return LostRanksError(
            f"{self._in_words(missing)} did not come within {self.seconds:g} s "
            f"(training.timeout_seconds): start {self._launch.world} processes, with torchrun or "
            f"TorchX; for one process, {for_one_process()}",
            speaks=self._speaks(missing),
        )

    def _speaks(self, missing: list[int]) -> bool:
        """Whether this rank is the first of those that have come. Without rank 0, which has the
        store, no rank knows of the others, and each speaks."""
        if 0 in missing:
            return True
        return self._launch.rank == min(set(range(self._launch.world)) - set(missing))

    def _in_words(self, missing: list[int]) -> str:
        launch = self._launch
        plural = "s" if len(missing) > 1 else ""
        numbers = ", ".join(map(str, missing[:8]))
        if len(missing) > 8:
            numbers += " and more"
        return f"rank{plural} {numbers} of {launch.world} at {launch.host}:{launch.port}"


def _at_rank_0(launch: Launch, timeout: timedelta, waiting: _Waiting) -> dist.TCPStore:
    """The store at the launcher's address, if nothing listens there yet: only this attempt uses
    it."""
    no_machine = f"MASTER_ADDR = '{launch.host}' is no machine's name or address"
    _soon(lambda: _has_address(launch.host), no_machine, waiting)

    if launch.rank == 0:
        return _open_at(launch, launch.port, timeout)
    waiting.until(lambda: _listens(launch.host, launch.port), lambda: [0])
    return dist.TCPStore(launch.host, launch.port, is_master=False, timeout=timeout)


def _at_the_agents(
    launch: Launch, timeout: timedelta, waiting: _Waiting, place: str
) -> dist.TCPStore:
    """The store of this attempt, of which the agent's store has the port.

    Args:
        place: key of the port in the agent's store.
    """
    host = launch.host
    port = launch.port
    no_launcher = f"no launcher listens at {host}:{port} (MASTER_ADDR, MASTER_PORT)"
    _soon(lambda: _listens(host, port), no_launcher, waiting)
    agents_store = dist.TCPStore(host, port, is_master=False, timeout=timeout)

    if launch.rank == 0:
        store = _open_at(launch, 0, timeout)
        agents_store.set(place, str(store.port))
        return store

    store_port = 0

    def is_open() -> bool:
        nonlocal store_port
        if not agents_store.check([place]):
            return False
        # The port may be that of an earlier attempt, at which nothing listens any more.
        store_port = int(agents_store.get(place))
        return _listens(host, store_port)

    waiting.until(is_open, lambda: [0])
    return dist.TCPStore(host, store_port, is_master=False, timeout=timeout)


def _soon(come: Callable[[], bool], otherwise: str, waiting: _Waiting) -> None:
    """Waits a little for what should be there already.

    Args:
        otherwise: message if it does not come.

    Raises:
        UserError: it does not come.
    """
    seconds = min(_SOON, waiting.seconds)
    deadline = time.monotonic() + seconds
    if not come():
        log.error("%s: tried again for %g s", otherwise, seconds)

    while not come():
        if time.monotonic() > deadline:
            raise UserError(
                f"{otherwise}: start with torchrun or TorchX; for one process, {for_one_process()}"
            )
        time.sleep(_LOOK_AGAIN)


def _open_at(launch: Launch, port: int, timeout: timedelta) -> dist.TCPStore:
    """Rank 0's store; port 0 takes a free one."""
    try:
        return dist.TCPStore(
            launch.host,
            port,
            launch.world,
            is_master=True,
            timeout=timeout,
            wait_for_workers=False,  # `_all_come` waits, and can say for whom
            multi_tenant=not launch.agent,  # a process may open the same port again
        )

    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            f"MASTER_PORT = {port}: another process has the port (are there two with RANK = 0?): "
            f"name another, or for one process, {for_one_process()}"
        ) from error


def _all_come(store: dist.Store, key: str, launch: Launch, waiting: _Waiting) -> None:
    """Waits until every rank has written that it has come, and the number of ranks that it knows
    of."""
    store.set(f"{key}/{launch.rank}", str(launch.world))
    missing = list(range(launch.world))

    def come() -> bool:
        # In the order of ranks, so each look costs one request.
        while missing and store.check([f"{key}/{missing[0]}"]):
            world = int(store.get(f"{key}/{missing[0]}"))
            if world != launch.world:
                # The other rank must fail with the same message, not wait for this one.
                _let_others_see(store, key, launch, missing[0])
                raise UserError(
                    f"WORLD_SIZE is {launch.world} for rank {launch.rank} and {world} for rank "
                    f"{missing[0]}: start all ranks alike"
                )
            missing.pop(0)
        return not missing

    def absent() -> list[int]:
        return [rank for rank in missing if not store.check([f"{key}/{rank}"])]

    waiting.until(come, absent)


def _let_others_see(store: dist.Store, key: str, launch: Launch, other: int) -> None:
    """Lets a rank with another number of ranks read that from the store before rank 0 ends, and the
    store with it."""
    store.set(f"{key}/differs/{launch.rank}", "")
    deadline = time.monotonic() + _LINGER
    while (
        launch.rank == 0
        and not store.check([f"{key}/differs/{other}"])
        and time.monotonic() < deadline
    ):
        time.sleep(_LOOK_AGAIN)


def _has_address(host: str) -> bool:
    """Whether the name of a machine resolves; one that starts at the same time may do so late."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True


def _listens(host: str, port: int) -> bool:
    """Whether something accepts connections at a port."""
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except (OSError, UnicodeError):
        return False
    return True
