"""As many versions stay open as memory allows, and memory is given back."""

import gc
import json
import weakref

import pytest
from service.following import MB, FollowingService

from torchrec_priors.service import follow
from torchrec_priors.service.refusals import NoRoomError
from torchrec_priors.service.room import Room, give_back
from torchrec_priors.service.versions import NoPreviousError


@pytest.fixture(autouse=True)
def give_nothing_back(monkeypatch):
    """Giving memory back takes long in a process with many objects."""
    monkeypatch.setattr(follow, "give_back", lambda: None)


@pytest.mark.parametrize(
    ("limit", "kept", "answers"),
    [
        (1000 * MB, ["two", "three"], "three"),
        (320 * MB, ["three"], "three"),  # three fit for a moment, but then too little is free
        (300 * MB, ["two", "three"], "three"),  # the previous version has to go first
        (215 * MB, ["three"], "three"),  # two fit, but too little is free to keep the old one
        (205 * MB, ["one"], "one"),  # two do not fit: a version takes 110 with the margin
    ],
)
def test_memory(tmp_path, limit, kept, answers, caplog):
    service = FollowingService(tmp_path, limit)
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
        service.follower._room.limit = 1000 * MB
        service.follower.check()
        assert (service.answers(), service.refused) == ("three", None)
    service.versions.close()


def test_going_back_to_a_version_that_is_not_in_memory(tmp_path):
    service = FollowingService(tmp_path, 215 * MB)
    service.publish("one")
    service.follower.load_first()
    service.publish("two")
    service.follower.check()
    assert service.open_runs() == ["two"]
    assert service.follower.rollback() == "one" == service.answers()
    service.follower.check()
    assert (service.answers(), service.loads) == ("one", ["one", "two", "one"])

    service.follower._room.limit = 150 * MB
    with pytest.raises(NoRoomError, match="it needs about"):
        service.follower.rollback()
    service.follower._room.limit = 215 * MB
    (service.folder.version("two") / "model").write_text("damaged")
    with pytest.raises(NoPreviousError, match=r"version 'two' cannot be loaded again .*damaged"):
        service.follower.rollback()
    assert service.answers() == "one"
    service.versions.close()


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
        # Other threads of this process may let go of a few frozen objects.
        assert gc.get_freeze_count() > 0.99 * frozen
    finally:
        gc.unfreeze()


def test_the_memory_of_this_process():
    room = Room()
    free = room.free()
    assert 0 < free < room.limit
    assert room.needed(1000) == 0
    with room.loading(1000):
        block = bytearray(64 * MB)
        block[::4096] = b"x" * len(block[::4096])
    assert 60 * MB < room.needed(1000) < 80 * MB
    assert json.dumps(room.needed(2000)) == str(room.needed(2000))
    with room.loading(1000):  # what needs less does not count
        pass
    assert room.needed(1000) > 60 * MB
