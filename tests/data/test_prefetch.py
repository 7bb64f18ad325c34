"""An iterator run ahead gives the same values, errors included, and leaves no thread."""

import threading
import time
from contextlib import closing

import pytest

from torchrec_priors.data.prefetch import ahead


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


@pytest.mark.parametrize("most", [0, 1, 3])
def test_values_come_in_order_and_then_the_end(most):
    assert list(ahead((number for number in range(20)), most)) == list(range(20))
    assert not _threads()


@pytest.mark.parametrize("most", [0, 2])
def test_an_error_comes_where_its_value_would(most):
    def failing():
        yield 1
        raise KeyError("two")

    values = ahead(failing(), most)
    assert next(values) == 1
    with pytest.raises(KeyError, match="two"):
        next(values)
    assert not _threads()


def test_no_more_than_asked_for_is_made_ahead():
    made = []

    def values():
        for number in range(100):
            made.append(number)
            yield number

    with closing(ahead(values(), 2)) as running:
        assert next(running) == 0
        deadline = time.monotonic() + 10
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3], (
            "one taken, two waiting, and the one that waits to be put there"
        )


def test_closing_ends_the_thread_and_closes_the_values():
    closed = []

    def values():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    running = ahead(values(), 1)
    next(running)
    assert _threads()
    running.close()
    assert not _threads()
    assert closed == [True]
