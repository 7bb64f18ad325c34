"""Opens the store through which the ranks of a launcher find each other.

A store is a small key-value server. torchrun keeps one store for all its attempts to start the
ranks, with everything that ranks have written to it. If ranks used that store after a restart,
they would find addresses of processes that have ended. So rank 0 opens a new store for each
attempt, and the launcher's store contains only the port of the new one.

Each rank notes in the new store that it has joined. Ranks that are missing are named in a warning
after 10 seconds, and in an error at the timeout.
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

# Keys in the stores: the port of the store of an attempt, and the ranks that have joined.
_PORT = "torchrec_priors/store"
_JOINED = "torchrec_priors/here"

# Numbers the stores of this process; every rank opens the same stores in the same order.
_opened = itertools.count()
_LOOK_AGAIN = 0.05  # seconds between two checks
_SAY_AFTER = 10.0  # seconds of waiting until a warning
_SOON = 20.0  # seconds to wait for an address that should exist already
_LINGER = 2.0  # seconds that rank 0 gives other ranks to read why the start fails


def open_store(launch: Launch, timeout: timedelta) -> tuple[dist.Store, str]:
    """Opens the store of this attempt and waits until all ranks have joined.

    Every rank must call it.

    Returns:
        The store, and a name of the attempt.

    Raises:
        LostRanksError: some ranks did not join within `timeout`.
        UserError: the launcher's address does not exist, or another program uses the port.
    """
    # Keys contain the number of the store, because a process may open several in succession.
    number = next(_opened)
    waiting = _Waiting(launch, timeout)

    try:
        if launch.agent:
            store = _store_named_by_agent(launch, timeout, waiting, f"{_PORT}/{number}")
        else:
            store = _store_at_launchers_address(launch, timeout, waiting)
        _wait_for_all(store, f"{_JOINED}/{number}", launch, waiting)
    except dist.DistError as error:
        # The store does not answer, or another program listens at the port.
        reason = " ".join(str(error).split())[:200]
        message = f"the ranks could not meet at {launch.host}:{launch.port} ({reason}): start again"
        raise LostRanksError(message, speaks=True) from error
    return store, str(store.port)


class _Waiting:
    """Waits for other ranks up to a timeout, and warns after a while which ranks are missing."""

    def __init__(self, launch: Launch, timeout: timedelta) -> None:
        self.seconds = timeout.total_seconds()
        self._launch = launch
        self._started = time.monotonic()
        self._warned = False

    def until(self, is_over: Callable[[], bool], missing: Callable[[], list[int]]) -> None:
        """Waits until `is_over` returns True.

        Args:
            is_over: a function that returns whether the other ranks have joined.
            missing: a function that returns the ranks that have not joined.

        Raises:
            LostRanksError: some ranks did not join in time.
        """
        # Most waits are short, so the pauses begin short. They grow so that a long wait does not
        # load the store with requests.
        pause = 0.001
        while not is_over():
            waited = time.monotonic() - self._started
            if waited > self.seconds:
                raise self._lost(missing())
            if waited > _SAY_AFTER and not self._warned:
                self._warned = True
                self._warn(missing())
            time.sleep(pause)
            pause = min(_LOOK_AGAIN, 2 * pause)

    def _warn(self, missing: list[int]) -> None:
        """Logs which ranks are missing, if this is the rank that reports it."""
        if not self._reports(missing):
            return
        # Only rank 0 shows warnings; other ranks show errors.
        level = logging.ERROR if self._launch.rank else logging.WARNING
        log.log(
            level,
            "rank %d waits for %s: %g s at most",
            self._launch.rank,
            self._in_words(missing),
            self.seconds,
        )

    def _lost(self, missing: list[int]) -> LostRanksError:
        """Creates the error that names the missing ranks."""
        return LostRanksError(
            f"{self._in_words(missing)} did not join within {self.seconds:g} s "
            f"(training.timeout_seconds): start {self._launch.world} processes, with torchrun or "
            f"TorchX; for one process, {for_one_process()}",
            speaks=self._reports(missing),
        )

    def _reports(self, missing: list[int]) -> bool:
        """Returns whether this rank reports that ranks are missing.

        Usually this is the first rank that has joined. If rank 0, which has the store, is missing,
        the ranks cannot see each other, and each of them reports it.
        """
        if 0 in missing:
            return True
        return self._launch.rank == min(set(range(self._launch.world)) - set(missing))

    def _in_words(self, missing: list[int]) -> str:
        """Names the missing ranks and the address, for messages."""
        launch = self._launch
        plural = "s" if len(missing) > 1 else ""
        numbers = ", ".join(map(str, missing[:8]))
        if len(missing) > 8:
            numbers += " and more"
        return f"rank{plural} {numbers} of {launch.world} at {launch.host}:{launch.port}"


def _store_at_launchers_address(
    launch: Launch, timeout: timedelta, waiting: _Waiting
) -> dist.TCPStore:
    """Opens a store at the launcher's address, for a launcher that has no store there itself.

    Only this attempt uses the address.
    """
    no_machine = f"MASTER_ADDR = '{launch.host}' is not the name or address of a machine"
    _wait_briefly(lambda: _has_address(launch.host), no_machine, waiting)

    if launch.rank == 0:
        return _open_at(launch, launch.port, timeout)
    waiting.until(lambda: _listens(launch.host, launch.port), lambda: [0])
    return dist.TCPStore(launch.host, launch.port, is_master=False, timeout=timeout)


def _store_named_by_agent(
    launch: Launch, timeout: timedelta, waiting: _Waiting, key: str
) -> dist.TCPStore:
    """Opens the store of this attempt, whose port is in the store of torchrun's agent.

    Args:
        key: the key of the port in the agent's store.
    """
    host = launch.host
    port = launch.port
    no_launcher = f"no launcher listens at {host}:{port} (MASTER_ADDR, MASTER_PORT)"
    _wait_briefly(lambda: _listens(host, port), no_launcher, waiting)
    agents_store = dist.TCPStore(host, port, is_master=False, timeout=timeout)

    if launch.rank == 0:
        store = _open_at(launch, 0, timeout)
        agents_store.set(key, str(store.port))
        return store

    store_port = 0

    def is_open() -> bool:
        nonlocal store_port
        if not agents_store.check([key]):
            return False
        # This may still be the port of an earlier attempt, at which nothing listens now.
        store_port = int(agents_store.get(key))
        return _listens(host, store_port)

    waiting.until(is_open, lambda: [0])
    return dist.TCPStore(host, store_port, is_master=False, timeout=timeout)


def _wait_briefly(is_over: Callable[[], bool], problem: str, waiting: _Waiting) -> None:
    """Waits a short time for an address that should exist already.

    Args:
        is_over: a function that returns whether the address exists.
        problem: the beginning of the message if it does not exist.

    Raises:
        UserError: the address does not exist.
    """
    seconds = min(_SOON, waiting.seconds)
    deadline = time.monotonic() + seconds
    if not is_over():
        log.error("%s: tried again for %g s", problem, seconds)

    while not is_over():
        if time.monotonic() > deadline:
            raise UserError(
                f"{problem}: start with torchrun or TorchX; for one process, {for_one_process()}"
            )
        time.sleep(_LOOK_AGAIN)


def _open_at(launch: Launch, port: int, timeout: timedelta) -> dist.TCPStore:
    """Opens rank 0's store at a port; 0 means any free port."""
    try:
        return dist.TCPStore(
            launch.host,
            port,
            launch.world,
            is_master=True,
            timeout=timeout,
            wait_for_workers=False,  # `_wait_for_all` waits, and names the missing ranks
            multi_tenant=not launch.agent,  # a process may open the same port again
        )

    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            f"MASTER_PORT = {port}: another process uses the port (do two have RANK = 0?): "
            f"name another port, or for one process, {for_one_process()}"
        ) from error


def _wait_for_all(store: dist.Store, key: str, launch: Launch, waiting: _Waiting) -> None:
    """Waits until every rank has joined.

    A rank joins by writing the number of ranks that its launcher gave it. All ranks must write the
    same number.

    Raises:
        LostRanksError: some ranks did not join in time.
        UserError: the ranks were started with different numbers of ranks.
    """
    store.set(f"{key}/{launch.rank}", str(launch.world))
    missing = list(range(launch.world))

    def is_over() -> bool:
        # The ranks are checked in their order, so a check usually costs only one request.
        while missing and store.check([f"{key}/{missing[0]}"]):
            world = int(store.get(f"{key}/{missing[0]}"))
            if world != launch.world:
                # The other rank must see the difference, too, and not wait for this rank.
                _let_others_see(store, key, launch, missing[0])
                raise UserError(
                    f"WORLD_SIZE is {launch.world} for rank {launch.rank} and {world} for rank "
                    f"{missing[0]}: start all ranks alike"
                )
            missing.pop(0)
        return not missing

    def still_missing() -> list[int]:
        return [rank for rank in missing if not store.check([f"{key}/{rank}"])]

    waiting.until(is_over, still_missing)


def _let_others_see(store: dist.Store, key: str, launch: Launch, other: int) -> None:
    """Keeps rank 0 alive until the other rank has seen that the numbers differ.

    The other rank reads the number from rank 0's store, which ends together with rank 0.
    """
    store.set(f"{key}/differs/{launch.rank}", "")
    deadline = time.monotonic() + _LINGER
    while (
        launch.rank == 0
        and not store.check([f"{key}/differs/{other}"])
        and time.monotonic() < deadline
    ):
        time.sleep(_LOOK_AGAIN)


def _has_address(host: str) -> bool:
    """Returns whether the name of a machine resolves.

    If the machine starts at the same time, its name may not resolve at first.
    """
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True


def _listens(host: str, port: int) -> bool:
    """Returns whether a program accepts connections at a port."""
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except (OSError, UnicodeError):
        return False
    return True
