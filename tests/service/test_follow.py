"""The published version answers; a bad one is refused once and the old one stays; going back works with any memory."""

import logging
import threading

import pytest
from published_models import change_json, reseal
from service.following import FollowingService

from torchrec_priors.errors import UserError
from torchrec_priors.publishing.canary import CANARY
from torchrec_priors.service import follow
from torchrec_priors.service.versions import NoPreviousError


@pytest.fixture(autouse=True)
def given_back(monkeypatch):
    """How often memory was given back, which takes long in a process with many objects."""
    times = []
    monkeypatch.setattr(follow, "give_back", lambda: times.append(1))
    return times


@pytest.fixture
def service(tmp_path):
    service = FollowingService(tmp_path)
    service.publish("one")
    service.follower.load_first()
    yield service
    service.follower.stop(5)
    service.versions.close()
    assert all(run.closed == 1 for run in service.memory.runs), "closed once each"


def test_the_published_version_is_loaded_beside_the_old_one(service):
    assert service.answers() == "one"
    service.follower.check()
    assert (service.loads, service.swaps) == (["one"], [])

    service.publish("two")
    service.before_load = lambda: seen.append(service.answers())
    seen = []
    with service.versions.lease() as leased:
        service.follower.check()
        assert (seen, service.answers(), service.swaps) == (["one"], "two", ["swapped"])
        assert leased.name == "one"
        assert leased.run.answer([None])[0][0].item_id == "one"
    assert all(run.warm for run in service.memory.runs)
    assert service.open_runs() == ["one", "two"]

    service.publish("three")
    service.follower.check()
    assert (service.answers(), service.open_runs()) == ("three", ["two", "three"])
    assert service.follower.described() == {
        "folder": str(service.folder.path),
        "published": "three",
        "rolled_back": False,
        "refused": None,
    }


def _damage(place):
    (place / "model").write_text("eno")


def _other_answers(place):
    (place / "model").write_text("other")
    reseal(place)


def _unknown_key(place):
    change_json(place / "manifest.json", lambda values: values.update(more=1))


def _no_canary(place):
    (place / CANARY).unlink()
    change_json(place / "manifest.json", lambda values: values["files"].pop(CANARY))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_damage, "version 'two' is damaged: 'model' does not match its checksum"),
        (_other_answers, "answers request 1 of its canary differently"),
        (_unknown_key, "'more': Unexpected keyword argument"),
        (_no_canary, "canary.json' is missing"),
        (lambda place: (place / "manifest.json").unlink(), "is not a published version"),
        (lambda place: place.rename(place.with_name("gone")), "is not a published version"),
        (lambda place: place.rename(place.with_name("gone")) and place.write_text(""), "is not a published version"),
    ],
    ids=["damage", "answers", "key", "canary", "manifest", "gone", "file"],
)  # fmt: skip
def test_a_bad_version_is_refused_once_and_the_old_one_stays(service, caplog, spoil, says):
    spoil(service.publish("two"))
    loads = []
    for _ in range(3):
        service.follower.check()
        loads.append(len(service.loads))
    assert loads[0] == loads[-1], "it is not loaded again"
    assert (service.answers(), service.swaps) == ("one", ["refused"])
    assert service.refused["version"] == "two"
    assert says in service.refused["reason"]
    assert "\n" not in service.refused["reason"]
    told = [line.message for line in caplog.records if line.levelno == logging.ERROR]
    assert told == [f"version 'two' is refused, and 'one' stays: {service.refused['reason']}"]
    assert service.open_runs() == ["one"]

    service.publish("three")
    service.follower.check()
    assert (service.answers(), service.refused) == ("three", None)
    assert service.swaps == ["refused", "swapped"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UserError("it was trained on other data"), "it was trained on other data"),
        (OSError(5, "said"), "cannot be loaded: Input/output error"),
        (MemoryError("Unable to allocate 7.45 TiB for an array"), "memory has run out (7.45 TiB"),
        (ZeroDivisionError("of\nours"), "ZeroDivisionError: of ours"),
    ],
)
def test_an_error_of_loading_refuses_the_version(service, error, says):
    service.publish("two")
    service.error = error
    for _ in range(3):
        service.follower.check()
    assert (service.answers(), service.swaps) == ("one", ["refused"])
    assert service.loads == ["one", "two"]
    assert says in service.refused["reason"]

    # Published again, the same version gets another chance.
    service.error = None
    service.point_to("two")
    service.follower.check()
    assert (service.answers(), service.refused) == ("two", None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"version": "two", "publ', "cannot be read"),
        ('{"version": "two", "published": "x", "more": 1}', "'more': Unexpected keyword argument"),
        ('{"version": "../two", "published": "x"}', "is no name of a version"),
        (None, "current.json' is missing"),
    ],
)
def test_a_current_json_that_cannot_be_read_changes_nothing(service, caplog, content, says):
    service.publish("two", current=False)
    file = service.folder.path / "current.json"
    before = file.read_bytes()
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    for _ in range(3):
        service.follower.check()
    assert (service.answers(), service.swaps) == ("one", ["refused"])
    assert service.refused["version"] is None
    assert says in service.refused["reason"]
    assert caplog.text.count("the published version is refused, and 'one' stays") == 1

    file.write_bytes(before)
    service.follower.check()
    assert (service.refused, service.loads) == (None, ["one"])
    service.point_to("two")
    service.follower.check()
    assert service.answers() == "two"


def test_a_version_whose_files_come_late(service):
    """As on a network folder, whose `current.json` is seen before the version that it names."""
    place = service.publish("two")
    place.rename(place.with_name("late"))
    service.follower.check()
    assert service.answers() == "one"
    place.with_name("late").rename(place)
    service.follower.check()
    assert service.answers() == "two"


def test_a_file_that_cannot_be_read_for_a_moment(service, monkeypatch):
    service.publish("two")

    def fail(_):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(follow, "verify", fail)
        for _ in range(3):
            service.follower.check()
        assert (service.answers(), service.swaps) == ("one", ["refused"])
        assert "the network folder has changed" in service.refused["reason"]
    service.follower.check()
    assert (service.answers(), service.refused) == ("two", None)


def test_going_back_and_staying_there(service):
    with pytest.raises(NoPreviousError, match="there is no previous version"):
        service.follower.rollback()
    service.publish("two")
    service.follower.check()
    assert service.follower.rollback() == "one" == service.answers()
    for _ in range(3):
        service.follower.check()
    assert (service.answers(), service.follower.described()["rolled_back"]) == ("one", True)
    assert service.follower.rollback() == "two"
    assert service.follower.rollback() == "one"

    service.publish("three")
    service.follower.check()
    assert (service.answers(), service.follower.described()["rolled_back"]) == ("three", False)
    assert service.follower.rollback() == "one", "what answered before, not what was published"
    assert service.loads == ["one", "two", "three"]


def test_going_back_does_not_wait_for_a_version_that_is_being_loaded(service):
    service.publish("two")
    service.follower.check()
    service.publish("three")
    loading, go_on = threading.Event(), threading.Event()
    service.before_load = lambda: loading.set() or go_on.wait(10)
    thread = threading.Thread(target=service.follower.check)
    thread.start()
    assert loading.wait(10)
    assert service.follower.rollback() == "one" == service.answers()
    go_on.set()
    thread.join()
    assert service.answers() == "three", "it was published later"


def test_going_back_right_after_a_swap_is_not_forgotten(service, caplog):
    """A person goes back while the thread that follows the folder ends its work."""

    class GoingBack(logging.Handler):
        def emit(self, record):
            if record.msg.startswith("version '%s' answers, after"):
                went_back.append(service.follower.rollback())

    went_back = []
    service.publish("two")
    caplog.set_level(logging.INFO)
    handler = GoingBack()
    follow.log.addHandler(handler)
    try:
        service.follower.check()
    finally:
        follow.log.removeHandler(handler)
    assert (went_back, service.answers()) == (["one"], "one")
    described = service.follower.described()
    assert (described["published"], described["rolled_back"]) == ("two", True)
    assert service.follower.rollback() == "two", "what answered before"


def test_a_version_in_memory_is_not_loaded_again(service):
    service.publish("two")
    service.follower.check()
    service.point_to("one")
    service.follower.check()
    assert (service.answers(), service.loads) == ("one", ["one", "two"])
    service.point_to("one")
    service.follower.check()
    assert service.swaps == ["swapped", "swapped"], "the second time nothing changed"
    service.point_to("two")
    service.follower.check()
    assert (service.answers(), service.loads) == ("two", ["one", "two"])

    # Somebody has replaced a version, although a version never changes.
    place = service.folder.version("one")
    change_json(place / "manifest.json", lambda values: values.update(created="later"))
    service.point_to("one")
    service.follower.check()
    assert (service.answers(), service.loads) == ("one", ["one", "two", "one"])


def test_the_first_version(tmp_path, caplog):
    service = FollowingService(tmp_path)
    with pytest.raises(
        UserError, match=r"--follow: .* has no published version: publish one first"
    ):
        service.follower.load_first()
    for name in ("one", "two", "three", "four"):
        service.publish(name)
    _damage(service.folder.version("four"))
    _damage(service.folder.version("three"))
    service.follower.load_first()
    assert (service.answers(), service.refused["version"]) == ("two", "three")
    for name in ("three", "four"):
        assert f"version '{name}' is refused, and none answers yet" in caplog.text
    service.follower.check()
    assert service.answers() == "two"
    service.versions.close()

    for name in ("one", "two"):
        _damage(service.folder.version(name))
    other = FollowingService(tmp_path)
    with pytest.raises(UserError, match=r"--follow: no version in .* can be served: publish one"):
        other.follower.load_first()


def test_the_thread_follows_until_it_is_stopped(service):
    swapped = threading.Event()
    service.follower._on_swap = lambda _: swapped.set()
    service.follower.start()
    service.publish("two")
    assert swapped.wait(10)
    assert service.answers() == "two"

    # A version that is being loaded when the service ends does not answer any more.
    loading, go_on = threading.Event(), threading.Event()
    service.before_load = lambda: loading.set() or go_on.wait(10)
    service.publish("three")
    assert loading.wait(10)
    service.follower.stop(0.0)
    go_on.set()
    service.follower.stop(10)
    assert not service.follower._thread.is_alive()
    assert (service.answers(), service.refused) == ("two", None)
    assert service.open_runs() == ["one", "two"]


def test_the_thread_survives_what_nobody_has_thought_of(service, monkeypatch, caplog):
    checks = threading.Semaphore(0)

    def check():
        checks.release()
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(service.follower, "check", check)
    service.follower.start()
    for _ in range(2):
        assert checks.acquire(timeout=10)
    assert "could not be looked at" in caplog.text


def test_memory_of_a_closed_version_is_given_back_when_its_last_batch_has_ended(
    service, given_back
):
    for name in ("two", "three"):
        service.publish(name)
        service.follower.check()
    before = len(given_back)
    for _ in range(3):
        service.follower.check()
    assert len(given_back) == before + 1
