"""Where the ranks of a launcher meet, and where those that are left count themselves.

torchrun keeps one store for all its attempts, with what workers wrote there: after a restart, ranks would look for
processes that are gone. So rank 0 opens a store for each attempt, and the launcher's only says where it is. Each rank
writes there that it has come; who has not is named, soon as a warning and in the end as an error.
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
_opened = itertools.count()  # in this process, and alike in those of the other ranks
_LOOK_AGAIN = 0.05  # seconds
_SAY_AFTER = 10.0  # seconds
_SOON = 20.0  # seconds
_LINGER = 2.0  # seconds


def open_store(launch: Launch, timeout: timedelta) -> tuple[dist.Store, str]:
    """The store of this attempt, at which all ranks have come, and a name of the attempt; every rank must call it.

    Raises:
        LostRanksError: some did not come within `timeout`.
        UserError: there is no such place, or something else has it.
    """
    number = next(_opened)
    waiting = _Waiting(launch, timeout)
    try:
        if launch.agent:
            store = _at_the_agents(launch, timeout, waiting, f"{_PLACE}/{number}")
        else:
            store = _at_rank_0(launch, timeout, waiting)
        _all_come(store, f"{_HERE}/{number}", launch, waiting)
    except (
        dist.DistError
    ) as error:  # a store that is stuck, or something else that listens at the port
        reason = " ".join(str(error).split())[:200]
        what = f"the ranks could not meet at {launch.host}:{launch.port} ({reason}): start again"
        raise LostRanksError(what, speaks=True) from error
    return store, str(store.port)


class _Waiting:
    """A wait for others that ends, and says after a while what it is for."""

    def __init__(self, launch: Launch, timeout: timedelta) -> None:
        self.seconds = timeout.total_seconds()
        self._launch = launch
        self._started = time.monotonic()
        self._said = False

    def until(self, come: Callable[[], bool], missing: Callable[[], list[int]]) -> None:
        """Waits for `come`.

        Args:
            missing: ranks that it waits for.

        Raises:
            LostRanksError: they did not come in time.
        """
        pause = 0.001
        while not come():
            waited = time.monotonic() - self._started
            if waited > self.seconds:
                raise self._lost(missing())
            if waited > _SAY_AFTER and not self._said:
                self._said = True
                self._say(missing())
            time.sleep(pause)
            pause = min(_LOOK_AGAIN, 2 * pause)

    def _say(self, missing: list[int]) -> None:
        if self._speaks(missing):
            level = (
                logging.ERROR if self._launch.rank else logging.WARNING
            )  # others than rank 0 do not warn
            log.log(
                level,
                "rank %d waits for %s: %g s at most",
                self._launch.rank,
                self._of(missing),
                self.seconds,
            )

    def _lost(self, missing: list[int]) -> LostRanksError:
        return LostRanksError(
            f"{self._of(missing)} did not come within {self.seconds:g} s (training.timeout_seconds): start "
            f"{self._launch.world} processes, with torchrun or TorchX; for one process, {for_one_process()}",
            speaks=self._speaks(missing),
        )

    def _speaks(self, missing: list[int]) -> bool:
        """Whether this is the first of those that are there; without rank 0 no one knows, and each is."""
        return 0 in missing or self._launch.rank == min(
            set(range(self._launch.world)) - set(missing)
        )

    def _of(self, missing: list[int]) -> str:
        launch = self._launch
        named = ", ".join(map(str, missing[:8])) + (" and more" if len(missing) > 8 else "")
        return f"rank{'s' * (len(missing) > 1)} {named} of {launch.world} at {launch.host}:{launch.port}"


def _at_rank_0(launch: Launch, timeout: timedelta, waiting: _Waiting) -> dist.TCPStore:
    """Nobody listens at the place yet: it is this attempt's alone."""
    nowhere = f"MASTER_ADDR = '{launch.host}' is no machine's name or address"
    _soon(lambda: _has_address(launch.host), nowhere, waiting)
    if launch.rank == 0:
        return _opened_at(launch, launch.port, timeout)
    waiting.until(lambda: _listens(launch.host, launch.port), lambda: [0])
    return dist.TCPStore(launch.host, launch.port, is_master=False, timeout=timeout)


def _at_the_agents(
    launch: Launch, timeout: timedelta, waiting: _Waiting, place: str
) -> dist.TCPStore:
    """The agent's store says where this attempt's is."""
    host = launch.host
    port = launch.port
    nobody = f"no launcher listens at {host}:{port} (MASTER_ADDR, MASTER_PORT)"
    _soon(lambda: _listens(host, port), nobody, waiting)
    launchers = dist.TCPStore(host, port, is_master=False, timeout=timeout)
    if launch.rank == 0:
        own = _opened_at(launch, 0, timeout)
        launchers.set(place, str(own.port))
        return own
    found = 0

    def there() -> bool:
        nonlocal found
        if not launchers.check([place]):
            return False
        found = int(launchers.get(place))
        return _listens(host, found)  # nobody does where an earlier attempt was

    waiting.until(there, lambda: [0])
    return dist.TCPStore(host, found, is_master=False, timeout=timeout)


def _soon(come: Callable[[], bool], otherwise: str, waiting: _Waiting) -> None:
    """Waits a little for what should be there already.

    Raises:
        UserError: it does not come; `otherwise` is why.
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


def _opened_at(launch: Launch, port: int, timeout: timedelta) -> dist.TCPStore:
    try:
        return dist.TCPStore(
            launch.host,
            port,
            launch.world,
            is_master=True,
            timeout=timeout,
            wait_for_workers=False,
            multi_tenant=not launch.agent,
        )
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            f"MASTER_PORT = {port}: another process has the port (are there two with RANK = 0?): name another, or "
            f"for one process, {for_one_process()}"
        ) from error


def _all_come(store: dist.Store, key: str, launch: Launch, waiting: _Waiting) -> None:
    """Waits until every rank has said that it is here, and how many there are."""
    store.set(f"{key}/{launch.rank}", str(launch.world))
    missing = list(range(launch.world))

    def come() -> bool:
        while missing and store.check([f"{key}/{missing[0]}"]):
            told = int(store.get(f"{key}/{missing[0]}"))
            if told != launch.world:
                _let_others_see(store, key, launch, missing[0])
                raise UserError(
                    f"WORLD_SIZE is {launch.world} for rank {launch.rank} and {told} for rank {missing[0]}: "
                    "start all ranks alike"
                )
            missing.pop(0)
        return not missing

    def absent() -> list[int]:
        return [rank for rank in missing if not store.check([f"{key}/{rank}"])]

    waiting.until(come, absent)


def _let_others_see(store: dist.Store, key: str, launch: Launch, other: int) -> None:
    """Before rank 0 ends, and the store with it, a rank that was told another number comes to know it from there."""
    store.set(f"{key}/differs/{launch.rank}", "")
    deadline = time.monotonic() + _LINGER
    while (
        launch.rank == 0
        and not store.check([f"{key}/differs/{other}"])
        and time.monotonic() < deadline
    ):
        time.sleep(_LOOK_AGAIN)


def _has_address(host: str) -> bool:
    """That of a machine which starts at the same time may come late."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except (OSError, UnicodeError):
        return False
    return True
