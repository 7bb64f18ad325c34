"""One model on several ranks: rank 0 speaks HTTP, and the others make the same calls as it.

Rank 0 broadcasts each batch as JSON before it answers it, so all ranks make the same calls in the
same order. While there are no requests it broadcasts empty batches: a collective that waits for
too long would fail, and only a collective finds that a rank is lost.
"""

import logging
import signal
from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread

import numpy as np
import torch
import torch.distributed as dist

from torchrec_priors.errors import OutsideError
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.ranks.roll_call import lost_ranks
from torchrec_priors.service.batcher import Outcome
from torchrec_priors.service.requests_as_json import requests_of, text_of
from torchrec_priors.serving.request import Request
from torchrec_priors.serving.run import LoadedRun

log = logging.getLogger(__name__)

_BEAT = 2.0  # seconds between two messages
_NOTHING = text_of([])
_END = b""


class Leader:
    """Rank 0 of a run on several ranks. It makes the other ranks answer with it."""

    def __init__(self, on_lost: Callable[[OutsideError], None]) -> None:
        """
        Args:
            on_lost: is called, by another thread, if ranks are lost while there are no requests.
        """
        self._on_lost = on_lost
        self._turn = Lock()
        self._ends = Event()
        self._beating: Thread | None = None

    def start(self, run: LoadedRun) -> None:
        """Begins to send messages. The other ranks must call `follow` now."""
        self._beating = Thread(
            target=self._beat, args=(run,), name="torchrec-priors-beat", daemon=True
        )
        self._beating.start()

    def answer(self, run: LoadedRun, requests: Sequence[Request]) -> list[Outcome]:
        """Answers a batch on all ranks (see `LoadedRun.answer`).

        Raises:
            OutsideError: a rank is lost, or it may have made other calls than the others.
        """
        with self._turn:
            return self._together(run, text_of(requests), lambda: run.answer(requests))

    def end(self, run: LoadedRun) -> None:
        """Lets the other ranks end.

        Raises:
            OutsideError: a rank is lost.
        """
        self._ends.set()
        if self._beating is not None:
            self._beating.join()
            with self._turn:
                self._together(run, _END, list)

    def _beat(self, run: LoadedRun) -> None:
        """Sends empty batches until the service ends."""
        while not self._ends.wait(_BEAT):
            # A batch that is being answered is a message, too.
            if not self._turn.acquire(blocking=False):
                continue
            try:
                self._together(run, _NOTHING, list)
            except OutsideError as error:
                self._on_lost(error)
                return
            finally:
                self._turn.release()

    def _together(
        self, run: LoadedRun, message: bytes, call: Callable[[], list[Outcome]]
    ) -> list[Outcome]:
        """Sends a message, and makes the call that the other ranks make when they receive it."""
        try:
            _broadcast(run.ranks, message)
            return call()
        except Exception as error:
            # The roll call finds out which ranks are lost.
            lost = lost_ranks(error, run.ranks.meeting)
            if lost is not None:
                raise lost from error
            log.exception("a call on %d ranks failed", run.ranks.world)
            raise OutsideError(
                "an unexpected error on several ranks, which may differ since: start them again"
            ) from error


def follow(run: LoadedRun) -> None:
    """Makes the calls of rank 0 until it ends. Every rank but rank 0 calls it.

    Signals are ignored: a launcher sends them to all ranks, and rank 0 still needs this rank for
    the requests in flight. If rank 0 is lost, the next message fails.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        message = _broadcast(run.ranks)
        if message == _END:
            return
        run.answer(requests_of(message))


def _broadcast(ranks: Ranks, message: bytes = b"") -> bytes:
    """Returns the message of rank 0 on every rank."""
    # These tensors stay on the CPU, so with GPUs they go through Gloo, too.
    size = torch.tensor([len(message)])
    dist.broadcast(size, 0, group=ranks.side)
    data = torch.empty(int(size), dtype=torch.uint8)
    if ranks.leads:
        data = torch.from_numpy(np.frombuffer(message, np.uint8).copy())
    if len(data):
        dist.broadcast(data, 0, group=ranks.side)
    return data.numpy().tobytes()
