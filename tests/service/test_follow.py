"""The published version answers; a bad one is refused once and the old one stays; going back works with any memory."""

import gc
import json
import logging
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from published_models import change_json, reseal

from torchrec_priors.common.files import partial_of
from torchrec_priors.errors import UserError
from torchrec_priors.publishing.canary import (
    CANARY,
    Canary,
    CanaryItem,
    CanaryRequest,
    write_canary,
)
from torchrec_priors.publishing.current import Current, write_current
from torchrec_priors.publishing.files import checksum_of
from torchrec_priors.publishing.folder import PublishedFolder
from torchrec_priors.publishing.version import Manifest, write_manifest
from torchrec_priors.service import follow
from torchrec_priors.service.follow import Follower
from torchrec_priors.service.refusals import NoRoomError
from torchrec_priors.service.room import Room, give_back
from torchrec_priors.service.versions import NoPreviousError, Versions
from torchrec_priors.serving.request import Answer, Recommendation

_DATA = "0" * 64
_MB = 1_000_000


@dataclass
class _Memory:
    """The memory of a service, in which each open run takes so much; nothing else does."""

    runs: list["_Run"] = field(default_factory=list)

    def used(self) -> int:
        return sum(run.takes for run in self.runs if not run.closed)


@dataclass(eq=False)
class _Run:
    """A run that answers each request with two items; the id of the first is the text of its file."""

    text: str
    takes: int
    closed: int = 0
    warm: bool = False
    data: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(manifest=SimpleNamespace(prepared_sha256=_DATA))
    )

    def warm_up(self) -> None:
        self.warm = True

    def answer(self, requests: list) -> list[Answer]:
        assert not self.closed
        items = [Recommendation(self.text, "", 2.0, "", {}), Recommendation("x", "", 1.0, "", {})]
        return [Answer(items) for _ in requests]

    def close(self) -> None:
        self.closed += 1


class _Service:
    """A follower with all that is around it, and a publisher. Runs are stubs, everything else is real."""

    def __init__(self, folder: Path, limit: int = 1000 * _MB) -> None:
        self.folder = PublishedFolder(folder)
        self.memory = _Memory()
        self.versions = Versions()
        self.swaps: list[str] = []
        self.loads: list[str] = []
        self.error: BaseException | None = None
        self.before_load = lambda: None
        self.follower = Follower(
            folder,
            self.versions,
            self._load,
            poll_s=0.01,
            room=Room(limit, self.memory.used),
            on_swap=self.swaps.append,
        )

    def _load(self, folder: Path) -> _Run:
        self.loads.append(folder.name)
        self.before_load()
        if self.error is not None:
            raise self.error
        run = _Run((folder / "model").read_text(), 100 * _MB)
        self.memory.runs.append(run)
        return run

    def publish(self, name: str, *, current: bool = True) -> Path:
        place = self.folder.version(name)
        partial = partial_of(place)
        partial.mkdir(parents=True)
        (partial / "model").write_text(name)
        write_canary(
            partial,
            Canary(_DATA, [CanaryRequest(user=1)], [[CanaryItem(name, 2.0), CanaryItem("x", 1.0)]]),
        )
        files = {file: checksum_of(partial / file) for file in ("model", CANARY)}
        created = f"2026-01-01T00:00:{len(self.folder.newest_first()):02d}"
        write_manifest(partial, Manifest(name, created, "step-1", _DATA, files))
        self.folder.complete(name)
        if current:
            self.point_to(name)
        return place

    def point_to(self, name: str) -> None:
        self.times = getattr(self, "times", 0) + 1
        write_current(self.folder.path, Current(name, f"time {self.times}"))

    def answers(self) -> str:
        """The version that answers, which is the one whose model answers."""
        with self.versions.lease() as served:
            (answer,) = served.run.answer([None])
            assert answer[0].item_id == served.name
            return served.name

    @property
    def refused(self) -> dict:
        return self.follower.described()["refused"]

    def open_runs(self) -> list[str]:
        return [run.text for run in self.memory.runs if not run.closed]


@pytest.fixture(autouse=True)
def given_back(monkeypatch):
    """How often memory was given back, which takes long in a process with many objects."""
    times = []
    monkeypatch.setattr(follow, "give_back", lambda: times.append(1))
    return times


@pytest.fixture
def service(tmp_path):
    service = _Service(tmp_path)
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


@pytest.mark.parametrize(
    ("limit", "kept", "answers"),
    [
        (1000 * _MB, ["two", "three"], "three"),
        (320 * _MB, ["three"], "three"),  # three fit for a moment, but then too little is free
        (300 * _MB, ["two", "three"], "three"),  # the previous version has to go first
        (215 * _MB, ["three"], "three"),  # two fit, but too little is free to keep the old one
        (205 * _MB, ["one"], "one"),  # two do not fit: a version takes 110 with the margin
    ],
)
def test_memory(tmp_path, limit, kept, answers, caplog):
    service = _Service(tmp_path, limit)
    for name in ("one", "two", "three"):
        service.publish(name)
        if name == "one":
            service.follower.load_first()
        for _ in range(3):
            service.follower.check()
    assert (service.answers(), service.open_runs()) == (answers, kept)
    if answers == "one":
        assert service.swaps == ["refused", "refused"]
        assert service.loads == ["one"]
        assert "it needs about 0.1GB beside the present one, and 0.1GB are left: give the service" in service.refused["reason"]  # fmt: skip
        assert caplog.text.count("version 'two' is refused") == 1
        # When there is memory, it is loaded without being published again.
        service.follower._room.limit = 1000 * _MB
        service.follower.check()
        assert (service.answers(), service.refused) == ("three", None)
    service.versions.close()


def test_going_back_to_a_version_that_is_not_in_memory(tmp_path):
    service = _Service(tmp_path, 215 * _MB)
    service.publish("one")
    service.follower.load_first()
    service.publish("two")
    service.follower.check()
    assert service.open_runs() == ["two"]
    assert service.follower.rollback() == "one" == service.answers()
    service.follower.check()
    assert (service.answers(), service.loads) == ("one", ["one", "two", "one"])

    service.follower._room.limit = 150 * _MB
    with pytest.raises(NoRoomError, match="it needs about"):
        service.follower.rollback()
    service.follower._room.limit = 215 * _MB
    (service.folder.version("two") / "model").write_text("damaged")
    with pytest.raises(NoPreviousError, match=r"version 'two' cannot be loaded again .*damaged"):
        service.follower.rollback()
    assert service.answers() == "one"
    service.versions.close()


def test_the_first_version(tmp_path, caplog):
    service = _Service(tmp_path)
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
    other = _Service(tmp_path)
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


def test_cycles_are_given_back_and_what_was_imported_stays_frozen():
    class Node:
        pass

    gc.freeze()
    frozen = gc.get_freeze_count()
    try:
        node = Node()
        node.itself = node
        gone = weakref.ref(node)
        del node
        give_back()
        assert gone() is None
        assert gc.get_freeze_count() == frozen
    finally:
        gc.unfreeze()


def test_the_memory_of_this_process():
    room = Room()
    free = room.free()
    assert 0 < free < room.limit
    assert room.needed(1000) == 0
    with room.loading(1000):
        block = bytearray(64 * _MB)
        block[::4096] = b"x" * len(block[::4096])
    assert 60 * _MB < room.needed(1000) < 80 * _MB
    assert json.dumps(room.needed(2000)) == str(room.needed(2000))
    with room.loading(1000):  # what needs less does not count
        pass
    assert room.needed(1000) > 60 * _MB
