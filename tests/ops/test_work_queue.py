"""Work is divided piece by piece: each piece is done once, a slow thread delays only its own, and errors arrive."""

import os
import signal
import time
from threading import Event, Lock, get_ident

import pytest
import torch

from torchrec_priors.ops import work_queue
from torchrec_priors.ops.single_thread import is_own
from torchrec_priors.ops.work_queue import results_in_order, work_through

CPU = torch.device("cpu")
MUCH = 1e12  # FLOPs
LONGEST = 60.0  # seconds

own_numbers = pytest.mark.skipif(not is_own(), reason="PyTorch has no OpenMP or MKL here")


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class _Recorder:
    """Keeps which thread has done each piece."""

    def __init__(self):
        self.done = []
        self.workers = []
        self._lock = Lock()

    def worker(self):
        with self._lock:
            self.workers.append(get_ident())
        return self.work

    def work(self, piece):
        with self._lock:
            self.done.append((piece, get_ident(), torch.get_num_threads()))

    @property
    def pieces(self):
        return sorted(piece for piece, _, _ in self.done)


@own_numbers
def test_a_thread_without_a_core_delays_only_its_own_piece():
    """The thread that has the first piece waits until all other pieces are done."""
    recorder = _Recorder()
    others_are_done = Event()

    def work(piece):
        if piece == 0:
            assert others_are_done.wait(LONGEST)
        recorder.work(piece)
        if len(recorder.done) == 9:
            others_are_done.set()

    work_through(iter(range(10)), lambda: work, CPU, MUCH)
    assert recorder.pieces == list(range(10))
    waited = recorder.done[-1]
    assert waited[0] == 0
    assert all(thread != waited[1] for _, thread, _ in recorder.done[:-1])
    assert {threads for _, _, threads in recorder.done} == {1}
    assert torch.get_num_threads() == 2


@own_numbers
def test_threads_take_the_modes_of_the_caller():
    modes = []

    def work(_piece):
        modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))

    with torch.inference_mode():
        work_through(iter(range(20)), lambda: work, CPU, MUCH)
    with torch.no_grad():
        work_through(iter(range(20)), lambda: work, CPU, MUCH)
    work_through(iter(range(20)), lambda: work, CPU, MUCH)
    assert modes == [(True, False)] * 20 + [(False, False)] * 20 + [(False, True)] * 20


@own_numbers
@pytest.mark.parametrize("fails_in", ["caller", "other"])
def test_an_error_of_any_thread_arrives_and_ends_the_work(fails_in):
    caller = get_ident()
    failed = Event()
    done = []

    def work(piece):
        if (get_ident() == caller) == (fails_in == "caller"):
            failed.set()
            raise ZeroDivisionError
        assert failed.wait(LONGEST)
        done.append(piece)

    with pytest.raises(ZeroDivisionError):
        work_through(iter(range(1_000_000)), lambda: work, CPU, MUCH)
    assert len(done) < 1_000_000
    assert torch.get_num_threads() == 2


@own_numbers
def test_little_work_is_done_by_the_caller_alone_with_one_thread():
    recorder = _Recorder()
    work_through(iter("abc"), recorder.worker, CPU, 1e6)
    assert recorder.done == [(piece, get_ident(), 1) for piece in "abc"]
    assert recorder.workers == [get_ident()]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_without_numbers_of_their_own_threads_share_each_operation(monkeypatch, device):
    """Also on other devices, whose work is not divided."""
    if device == "cpu":
        monkeypatch.setattr(work_queue, "is_own", lambda: False)
    recorder = _Recorder()
    work_through(iter("abc"), recorder.worker, torch.device(device), MUCH)
    assert recorder.done == [(piece, get_ident(), 2) for piece in "abc"]


@own_numbers
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_the_order_of_their_pieces(threads):
    """Also if the first piece ends last."""
    others_begun = Event()
    used = []

    def square(piece):
        if threads > 1 and piece == 0:
            assert others_begun.wait(LONGEST)
        if piece == 3:
            others_begun.set()
        used.append((get_ident() == caller, torch.get_num_threads()))
        return piece**2

    caller = get_ident()
    with torch.inference_mode():
        results = list(results_in_order(range(12), square, threads))
    assert results == [(piece, piece**2) for piece in range(12)]
    assert set(used) == ({(True, 2)} if threads == 1 else {(False, 1)})


@own_numbers
def test_pieces_are_not_begun_far_ahead_of_the_results():
    """The caller need not hold more pieces if one of them takes long."""
    asked = []
    may_end = Event()

    def pieces():
        for piece in range(50):
            asked.append(piece)
            # With a piece that never ends, the threads would wait here for ever.
            if len(asked) == 2 * work_queue._AHEAD:
                may_end.set()
            yield piece

    def work(piece):
        assert piece > 0 or may_end.wait(LONGEST)
        return piece

    results = results_in_order(pieces(), work, 2)
    assert next(results) == (0, 0)
    assert len(asked) <= 2 * work_queue._AHEAD + 1
    assert [piece for piece, _ in results] == list(range(1, 50))


@own_numbers
def test_an_error_comes_in_place_of_its_result():
    def invert(piece):
        return 1 / (5 - piece)

    results = results_in_order(range(100), invert, 2)
    assert [next(results)[0] for _ in range(5)] == list(range(5))
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


@own_numbers
def test_a_forked_process_has_threads_of_its_own():
    """The threads of the parent are not in the child, where work would wait for them for ever."""
    assert list(results_in_order(range(3), float, 2)) == [(0, 0.0), (1, 1.0), (2, 2.0)]
    child = os.fork()
    if child == 0:
        done = [result for _, result in results_in_order(range(3), float, 2)]
        os._exit(0 if done == [0.0, 1.0, 2.0] else 1)
    assert _exit_code(child) == 0


def _exit_code(child):
    """Returns the exit code of a process, which is ended if it takes too long."""
    ends = time.monotonic() + LONGEST
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
