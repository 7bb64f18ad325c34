"""Where the ranks of a launcher meet, and where those that are left count themselves.

torchrun keeps one store for all its attempts, with what workers wrote there: after a restart, ranks would look for
processes that are gone. So rank 0 opens a store for each attempt, and the launcher's only says where it is.
"""

import itertools
import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist

_PLACE = "torchrec_priors/store"
_opened = itertools.count()  # in this process, and alike in those of the other ranks
_LOOK_AGAIN = 0.05  # seconds


def launched() -> bool:
    """Whether a launcher (torchrun, TorchX) started this process as one of several ranks."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def open_store(rank: int, world: int, timeout: timedelta) -> tuple[dist.Store, str]:
    """The store of this attempt, and a name of the attempt; every rank of a launcher must call it.

    Raises:
        dist.DistError: it is not there within `timeout`.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # nobody listens there yet: it is this attempt's alone
        return dist.TCPStore(host, port, world, is_master=rank == 0, timeout=timeout, multi_tenant=True), str(port)
    place = f"{_PLACE}/{next(_opened)}"
    launchers = dist.TCPStore(host, port, is_master=False, timeout=timeout)
    if rank == 0:
        own = dist.TCPStore(host, 0, world, is_master=True, timeout=timeout, wait_for_workers=False)
        launchers.set(place, str(own.port))
        return own, str(own.port)
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        found = int(launchers.get(place))
        if _listens(host, found):
            return dist.TCPStore(host, found, is_master=False, timeout=timeout), str(found)
        if time.monotonic() > deadline:
            raise dist.DistNetworkError(f"rank 0 did not open a store within {timeout.total_seconds():g} s")
        time.sleep(_LOOK_AGAIN)  # that was an earlier attempt's


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True
