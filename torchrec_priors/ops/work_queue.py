"""Divides work among threads piece by piece: a thread that is done takes the next piece.

An operation of PyTorch gives each thread the same share, and lasts until the last thread has done
its share. If another process takes the core of a thread, all others wait for it. Here each thread
computes its pieces alone, with operations that use one thread. A thread that has lost its core
delays only its current piece, and leaves the other pieces to the rest.
"""

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from threading import Lock
from typing import Generic, TypeVar

import torch

from torchrec_priors.ops.single_thread import is_own, single_thread

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_AHEAD = 2  # pieces that are begun or wait to be yielded, for each thread
_ENOUGH = 1e8  # FLOPs of a thread: about a millisecond; to wake a thread takes a twentieth of it


def work_through(
    pieces: Iterator[Piece],
    worker: Callable[[], Callable[[Piece], None]],
    device: torch.device,
    flops: float,
) -> None:
    """Works through all pieces. They are begun in the order in which they are given.

    There are at most as many threads as the caller's operations use, and fewer for little work.

    Args:
        pieces: the pieces. One thread at a time asks for the next, so this should take little time.
        worker: makes what works on a piece. Each thread makes its own, which may hold memory.
        device: the device of the work. Only work of the CPU is divided among threads.
        flops: the FLOPs of all pieces.

    Raises:
        BaseException: what a piece raised, in any thread. Pieces that had not begun are left out.
    """
    if not can_divide(device):
        work = worker()
        for piece in pieces:
            work(piece)
        return

    threads = min(torch.get_num_threads(), 1 + int(flops / _ENOUGH))
    queue = _Queue(pieces)
    alone = _alone()

    def work_alone() -> None:
        with alone():
            try:
                work = worker()
                for piece in queue:
                    work(piece)
            finally:
                # After an error, nobody begins another piece.
                queue.close()

    others = [_pool().submit(work_alone) for _ in range(threads - 1)]
    try:
        work_alone()
    finally:
        # A thread that has not begun yet need not, as no piece is left: other callers may keep the
        # threads of the pool busy.
        begun = [other for other in others if not other.cancel()]
        errors = [other.exception() for other in begun]
    for error in filter(None, errors):
        raise error


def results_in_order(
    pieces: Iterable[Piece], work: Callable[[Piece], Result], threads: int
) -> Iterator[tuple[Piece, Result]]:
    """Yields each piece and its result, in the order of the pieces, while threads work on others.

    Args:
        pieces: the pieces, which the caller's thread asks for.
        work: works on a piece. Several threads call it at the same time.
        threads: the number of threads beside the caller's, which yields the results. With 1,
            the caller's thread works as well, and its operations keep their threads.

    Raises:
        BaseException: what a piece raised, in place of its result.
    """
    if threads == 1:
        for piece in pieces:
            yield piece, work(piece)
        return

    alone = _alone()

    def work_alone(piece: Piece) -> Result:
        with alone():
            return work(piece)

    # If the first piece takes long, some results wait for it.
    most = _AHEAD * threads
    begun: deque[tuple[Piece, Future[Result]]] = deque()
    try:
        for piece in pieces:
            begun.append((piece, _pool().submit(work_alone, piece)))
            while begun and (begun[0][1].done() or len(begun) >= most):
                first, result = begun.popleft()
                yield first, result.result()
            running = [result for _, result in begun if not result.done()]
            if len(running) >= threads:
                wait(running, return_when=FIRST_COMPLETED)
        while begun:
            first, result = begun.popleft()
            yield first, result.result()
    finally:
        # After an error, what is running ends before the caller goes on.
        wait([result for _, result in begun if not result.cancel()])


def can_divide(device: torch.device) -> bool:
    """Returns whether the work of a device can be divided: each thread needs its own number."""
    return device.type == "cpu" and is_own()


def _alone() -> Callable[[], ExitStack]:
    """Returns a context in which a thread computes alone, with the caller's modes of PyTorch."""
    # Modes belong to a thread.
    inference = torch.is_inference_mode_enabled()
    grad = torch.is_grad_enabled()

    def enter() -> ExitStack:
        with ExitStack() as modes:
            modes.enter_context(single_thread())
            modes.enter_context(torch.inference_mode(inference))
            modes.enter_context(torch.set_grad_enabled(grad))
            return modes.pop_all()

    return enter


class _Queue(Generic[Piece]):
    """Pieces that several threads take."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._lock = Lock()
        self._is_closed = False

    def __iter__(self) -> Iterator[Piece]:
        while True:
            # A generator cannot be asked by two threads at the same time.
            with self._lock:
                if self._is_closed:
                    return
                try:
                    piece = next(self._pieces)
                except StopIteration:
                    return
            yield piece

    def close(self) -> None:
        self._is_closed = True


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Returns threads that stay, as MKL keeps memory for each thread that has called it."""
    return ThreadPoolExecutor(os.cpu_count(), "torchrec-priors-work")


# A forked process has none of the threads, so it makes its own.
os.register_at_fork(after_in_child=_pool.cache_clear)
