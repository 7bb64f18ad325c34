"""A version of the model answers until its last lease ends, and is closed once."""

import random
import threading

import pytest
from stub_runs import StubRun, served

from torchrec_priors.service.versions import NoPreviousError, NotReadyError, Versions


def test_without_a_version_there_is_no_lease():
    versions = Versions()
    assert versions.current is None
    with pytest.raises(NotReadyError, match="no model is loaded"), versions.lease():
        pass

    run = StubRun()
    versions.swap(served(run))
    with versions.lease() as lent:
        assert lent is versions.current
    assert not run.closed


def test_the_old_version_is_closed_after_its_last_lease():
    old, new = StubRun(), StubRun()
    versions = Versions(served(old, "old"))
    first = versions.lease()
    second = versions.lease()
    assert first.__enter__().run is second.__enter__().run is old

    versions.swap(served(new, "new"), keep=False)
    with versions.lease() as lent:
        assert lent.name == "new"
    first.__exit__(None, None, None)
    assert old.closed == 0
    second.__exit__(None, None, None)
    assert (old.closed, new.closed) == (1, 0)


def test_the_previous_version_is_kept_until_a_third_comes():
    runs = [StubRun() for _ in range(3)]
    versions = Versions()
    for name, run in zip("abc", runs, strict=True):
        versions.swap(served(run, name))
    assert [run.closed for run in runs] == [1, 0, 0]
    assert versions.current.name == "c"
    assert versions.previous.name == "b"

    assert versions.rollback().name == "b"
    assert versions.previous.name == "c"
    assert versions.drop_previous()
    assert [run.closed for run in runs] == [1, 0, 1]

    assert not versions.drop_previous()
    with pytest.raises(NoPreviousError, match="no previous version"):
        versions.rollback()
    assert versions.close()
    assert [run.closed for run in runs] == [1, 1, 1]


def test_a_version_that_is_rolled_back_while_it_leaves_stays_open():
    # "a" is leased and kept, comes back, and is closed only when it is replaced for good.
    first, second = StubRun(), StubRun()
    versions = Versions(served(first, "a"))
    with versions.lease():
        versions.swap(served(second, "b"))
        versions.rollback()
    assert not first.closed
    versions.drop_previous()
    assert (first.closed, second.closed) == (0, 1)


def test_closing_waits_for_leases():
    run = StubRun()
    versions = Versions(served(run))
    lease = versions.lease()
    lease.__enter__()
    assert not versions.close(timeout=0.01)
    assert not run.closed
    with pytest.raises(NotReadyError), versions.lease():
        pass
    lease.__exit__(None, None, None)
    assert run.closed == 1
    assert versions.close()


def test_an_error_while_a_version_is_closed_does_not_reach_its_user(caplog):
    run = StubRun()
    run.close = lambda: 1 / 0
    versions = Versions(served(run, "old"))
    versions.swap(served(StubRun()), keep=False)
    assert "version 'old' could not be closed" in caplog.text


def test_threads_that_lease_while_others_swap_never_see_a_closed_version():
    # `StubRun.answer` asserts that it is open.
    runs = [StubRun()]
    versions = Versions(served(runs[0]))
    errors = []

    def ask():
        try:
            for _ in range(100):
                with versions.lease() as lent:
                    lent.run.answer([])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    draw = random.Random(0)
    while any(thread.is_alive() for thread in threads):
        runs.append(StubRun())
        versions.swap(served(runs[-1]), keep=draw.random() < 0.5)
        if versions.previous is not None and draw.random() < 0.3:
            versions.rollback()
    for thread in threads:
        thread.join()
    versions.close()
    assert not errors
    assert {run.closed for run in runs} == {1}
