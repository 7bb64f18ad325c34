"""A service that follows published versions, whose runs are stubs that say which version they are."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from torchrec_priors.common.files import partial_of
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
from torchrec_priors.service.follow import Follower
from torchrec_priors.service.room import Room
from torchrec_priors.service.versions import Versions
from torchrec_priors.serving.request import Answer, Recommendation

_DATA = "0" * 64
MB = 1_000_000


@dataclass
class StubMemory:
    """The memory of a service, in which each open run takes so much; nothing else does."""

    runs: list["StubRun"] = field(default_factory=list)

    def used(self) -> int:
        return sum(run.takes for run in self.runs if not run.closed)


@dataclass(eq=False)
class StubRun:
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


class FollowingService:
    """A follower with all that is around it, and a publisher. Runs are stubs, everything else is real."""

    def __init__(self, folder: Path, limit: int = 1000 * MB) -> None:
        self.folder = PublishedFolder(folder)
        self.memory = StubMemory()
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

    def _load(self, folder: Path) -> StubRun:
        self.loads.append(folder.name)
        self.before_load()
        if self.error is not None:
            raise self.error
        run = StubRun((folder / "model").read_text(), 100 * MB)
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
