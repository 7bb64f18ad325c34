"""The batcher answers every request exactly once, or says why it does not."""

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_runs import StubRun, request, served, users_of

from torchrec_priors.errors import OutsideError
from torchrec_priors.service.batcher import Batcher, EndingError, QueueFullError
from torchrec_priors.service.versions import NotReadyError, Versions
from torchrec_priors.serving.request import LateError


def batcher_of(run, **options):
    versions = Versions(served(run))
    return Batcher(versions, answer=StubRun.answer, **options)


async def busy(batcher, run):
    """A batch that is being computed until `run.gate` is opened."""
    run.gate.clear()
    run.started.clear()
    first = asyncio.create_task(batcher.submit([request("first")]))
    await asyncio.to_thread(run.started.wait, 10)
    return first


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), max_size=40),
    most=st.integers(1, 16),
    wait=st.sampled_from([0.0, 0.001]),
    pauses=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_every_request_is_answered_exactly_once(sizes, most, wait, pauses):
    run = StubRun()
    calls = [[(number, part) for part in range(size)] for number, size in enumerate(sizes)]

    async def ask(batcher, users, pause):
        if pause:
            await asyncio.sleep(0)
        return await batcher.submit([request(user) for user in users])

    async def main():
        batcher = batcher_of(run, most=most, wait=wait)
        pairs = zip(calls, pauses[: len(calls)], strict=True)
        answers = await asyncio.gather(*(ask(batcher, users, pause) for users, pause in pairs))
        assert await batcher.drain(5)
        return batcher, answers

    batcher, answers = asyncio.run(main())
    assert [users_of(batched.outcomes) for batched in answers] == calls
    seen = [user for batch in run.batches for user in batch]
    assert sorted(seen) == sorted(user for users in calls for user in users)
    assert (batcher.counts.requests, batcher.counts.batches) == (len(seen), len(run.batches))
    # A call with more than `most` requests is a batch of its own.
    for batch in run.batches:
        assert len(batch) <= most or len({number for number, _ in batch}) == 1


def test_what_comes_during_a_batch_is_the_next_batch():
    run = StubRun()

    async def main():
        measured = []
        batcher = batcher_of(run, most=8, on_batch=lambda size, took: measured.append(size))
        first = await busy(batcher, run)
        others = [asyncio.create_task(batcher.submit([request(user)])) for user in range(20)]
        await asyncio.sleep(0)
        assert batcher.waiting == 20
        run.gate.set()
        answers = await asyncio.gather(first, *others)
        await batcher.drain(5)
        return measured, answers

    measured, answers = asyncio.run(main())
    assert [len(batch) for batch in run.batches] == measured == [1, 8, 8, 4]
    assert [batched.batch_size for batched in answers] == [1] + [8] * 16 + [4] * 4
    assert all(batched.version.name == "one" for batched in answers)
    assert all(batched.queued_s >= 0 and batched.computed_s > 0 for batched in answers)


def test_requests_one_at_a_time_do_not_wait_for_others():
    run = StubRun()

    async def main():
        batcher = batcher_of(run, wait=30)
        for user in range(5):
            await batcher.submit([request(user)])
        await batcher.drain(5)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert len(run.batches) == 5


def test_after_a_large_batch_the_next_one_waits_for_as_many():
    run = StubRun()

    async def main():
        batcher = batcher_of(run, wait=30)
        await asyncio.gather(*(batcher.submit([request(user)]) for user in range(4)))
        # The first of these would be a batch alone if the batcher did not wait.
        late = []
        for user in range(4):
            late.append(asyncio.create_task(batcher.submit([request(user)])))
            await asyncio.sleep(0.005)
        await asyncio.gather(*late)
        await batcher.drain(5)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert len(run.batches[-1]) == 4


def test_a_batch_does_not_wait_for_calls_that_have_stopped_coming():
    run = StubRun()

    async def main():
        batcher = batcher_of(run, wait=2.0)
        await asyncio.gather(*(batcher.submit([request(user)]) for user in range(4)))
        began = time.monotonic()
        await batcher.submit([request("last")])
        waited = time.monotonic() - began
        await batcher.drain(5)
        return waited

    # As many calls as before are waited for, but only while some come.
    assert 0.4 < asyncio.run(main()) < 1.9
    assert run.batches[-1] == ["last"]


def test_a_full_queue_refuses_and_says_when_to_come_back():
    run = StubRun(takes=0.01)

    async def main():
        batcher = batcher_of(run, most=2, queue=6)
        first = await busy(batcher, run)
        # Without a measured batch the time is a guess.
        waiting = [asyncio.create_task(batcher.submit([request(user)] * 2)) for user in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="too many requests") as guess:
            await batcher.submit([request("no")])
        run.gate.set()
        await asyncio.gather(first, *waiting)

        second = await busy(batcher, run)
        waiting = [asyncio.create_task(batcher.submit([request(user)] * 2)) for user in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError) as measured:
            await batcher.submit([request("no")])
        run.gate.set()
        await asyncio.gather(second, *waiting)

        # A call that is larger than the whole queue is taken when no other waits.
        assert len((await batcher.submit([request(0)] * 9)).outcomes) == 9
        await batcher.drain(5)
        return guess.value, measured.value, batcher.counts.refused

    guess, measured, refused = asyncio.run(main())
    assert refused == 2
    assert guess.retry_after_s == 1
    # 6 requests wait, and each takes 5 ms to 10 ms; the gate makes it longer.
    assert 0.03 <= measured.retry_after_s < 5
    assert "no" not in [user for batch in run.batches for user in batch]


def test_a_caller_is_answered_at_its_deadline_and_its_requests_are_not_computed():
    run = StubRun()

    async def main():
        batcher = batcher_of(run)
        first = await busy(batcher, run)
        began = time.monotonic()
        late = await batcher.submit([request("late"), request("late")], began + 0.03)
        took = time.monotonic() - began
        past = asyncio.create_task(batcher.submit([request("past")], began))
        run.gate.set()
        await asyncio.gather(first, past)
        await batcher.drain(5)
        return took, late, past.result(), batcher.counts

    took, late, past, counts = asyncio.run(main())
    assert 0.029 <= took < 1
    for batched, number in ((late, 2), (past, 1)):
        assert [type(outcome) for outcome in batched.outcomes] == [LateError] * number
        assert (batched.version, batched.batch_size) == (None, 0)
    assert counts.late == 3
    assert run.batches == [["first"]]


def test_a_caller_gets_its_deadline_even_if_its_batch_takes_longer():
    run = StubRun()

    async def main():
        batcher = batcher_of(run)
        run.gate.clear()
        batched = await batcher.submit([request("slow")], time.monotonic() + 0.02)
        run.gate.set()
        assert await batcher.drain(5)
        return batched, batcher.counts

    batched, counts = asyncio.run(main())
    assert isinstance(batched.outcomes[0], LateError)
    assert counts.late == 1
    assert run.batches == [["slow"]]


def test_requests_whose_callers_are_gone_are_dropped_and_counted():
    run = StubRun()

    async def main():
        batcher = batcher_of(run)
        first = await busy(batcher, run)
        gone = asyncio.create_task(batcher.submit([request("gone")] * 3))
        stays = asyncio.create_task(batcher.submit([request("stays")]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        run.gate.set()
        await asyncio.gather(first, stays)
        await batcher.drain(5)
        return batcher.counts

    counts = asyncio.run(main())
    assert counts.dropped == 3
    assert run.batches == [["first"], ["stays"]]


def test_a_caller_that_leaves_during_its_batch_does_no_harm():
    run = StubRun()

    async def main():
        batcher = batcher_of(run)
        first = await busy(batcher, run)
        first.cancel()
        await asyncio.sleep(0)
        run.gate.set()
        assert users_of((await batcher.submit([request(1)])).outcomes) == [1]
        await batcher.drain(5)

    asyncio.run(main())


def test_draining_answers_what_waits_and_takes_no_more():
    run = StubRun()

    async def main():
        batcher = batcher_of(run, wait=30)
        first = await busy(batcher, run)
        waiting = [asyncio.create_task(batcher.submit([request(user)])) for user in range(3)]
        await asyncio.sleep(0)
        draining = asyncio.create_task(batcher.drain(10))
        await asyncio.sleep(0)
        with pytest.raises(EndingError):
            await batcher.submit([request("no")])
        run.gate.set()
        answers = await asyncio.gather(first, *waiting)
        assert await draining
        return [users_of(batched.outcomes)[0] for batched in answers]

    assert asyncio.run(main()) == ["first", 0, 1, 2]


def test_draining_ends_in_time():
    run = StubRun()

    async def main():
        batcher = batcher_of(run)
        first = await busy(batcher, run)
        waits = asyncio.create_task(batcher.submit([request("waits")]))
        await asyncio.sleep(0)
        assert not await batcher.drain(0.01)
        with pytest.raises(EndingError):
            await waits
        run.gate.set()
        await first

    asyncio.run(main())
    assert run.batches == [["first"]]


def test_a_batch_has_one_lease():
    old, new = StubRun(), StubRun()

    async def main():
        versions = Versions(served(old, "old"))
        batcher = Batcher(versions, answer=StubRun.answer)
        first = await busy(batcher, old)
        waits = asyncio.create_task(batcher.submit([request(1), request(2)]))
        await asyncio.sleep(0)
        versions.swap(served(new, "new"), keep=False)
        assert not old.closed
        old.gate.set()
        names = [batched.version.name for batched in await asyncio.gather(first, waits)]
        await batcher.drain(5)
        return names

    assert asyncio.run(main()) == ["old", "new"]
    assert old.closed == 1
    assert new.batches == [[1, 2]]


def test_an_error_reaches_only_the_call_that_has_it(caplog):
    run = StubRun()
    run.bad = {"bad"}

    async def main():
        batcher = batcher_of(run)
        first = await busy(batcher, run)
        calls = [batcher.submit([request(user)]) for user in ("a", "bad", "b")]
        waiting = asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0)
        run.gate.set()
        await first
        good, bad, other = await waiting
        assert users_of((await batcher.submit([request("c")])).outcomes) == ["c"]
        await batcher.drain(5)
        return users_of(good.outcomes + other.outcomes), bad, batcher.counts.failed

    users, error, failed = asyncio.run(main())
    assert users == ["a", "b"]
    assert isinstance(error, ZeroDivisionError)
    assert failed == 1
    assert "a bad request" in caplog.text


def test_without_a_model_callers_hear_it():
    async def main():
        batcher = Batcher(Versions())
        with pytest.raises(NotReadyError):
            await batcher.submit([request(1)])
        await batcher.drain(5)

    asyncio.run(main())


def test_a_model_that_is_lost_is_reported_once_per_batch():
    run = StubRun()
    run.error = OutsideError("the ranks are gone")
    lost = []

    async def main():
        batcher = batcher_of(run, on_lost=lost.append)
        with pytest.raises(OutsideError, match="gone"):
            await batcher.submit([request(1)])
        await batcher.drain(5)

    asyncio.run(main())
    assert lost == [run.error]
