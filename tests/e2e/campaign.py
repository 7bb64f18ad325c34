"""What every app is put through on a small disk, in a room (see `rooms`): it fills up, it may not write, it is killed.

Whatever happens, nothing that looks whole is not; and the same command, given again, ends with what it would have made.
"""

import hashlib
import json
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rooms import Disk, Ended, app, without_privileges

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = REPOSITORY / "torchx_configs/small.toml"
BUDGET = (
    "training.steps=4", "training.evaluate_every=2", "training.batch=8", "negatives.per_set=8", "model.dim=8",
    "encoder.layers=1", "training.checkpoint_async=false",
)  # fmt: skip
_ITS_OWN = r"seconds|time\b|waiting|raw_seen|\.metadata|^sha256$|^created$|^published$"  # keys of JSON that differ from run to run
_GROWING = re.compile(
    r"(.*/)?(metrics\.jsonl|events/.*|best\.json|logs/.*|results\.(md|parquet))|(.*/)?step-\d+\.partial(/.*)?"
)


@dataclass(frozen=True)
class Scenario:
    """A command that runs in the disk's folder.

    Attributes:
        words: with `{base}` for the folder beside the disk, which holds what never changes, and `{address}` for that of
            its data set by HTTP.
        holds: what is on the disk before, as names there and in the folder beside.
        environment: with the same.
        ignored: names that may be there, and differ.
    """

    name: str
    words: tuple[str, ...]
    holds: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    ignored: str = r"$^"

    def run(self, disk: Disk, base: Path, **how: Any) -> Ended:
        address = (base / "address").read_text() if (base / "address").exists() else ""
        words = [word.format(base=base, address=address) for word in self.words]

        def before() -> None:
            os.environ.update({name: value.format(base=base) for name, value in self.environment})
            if how.get("unprivileged"):
                without_privileges()

        options = {name: value for name, value in how.items() if name != "unprivileged"}
        return app(words[0], *words[1:], cwd=disk.folder, before=before, disk=disk, **options)

    def start(self, disk: Disk, base: Path) -> None:
        disk.hold({name: base / name for name in self.holds})


TRAIN = ("train", "--config", str(SMALL), "--data", "{base}/data", "--run", "run", *BUDGET)
SCENARIOS = (
    Scenario(
        "prepare", ("prepare", "--dataset", "movielens", "--raw", "{base}/raw", "--out", "made")
    ),
    Scenario(
        "prepare --overwrite",
        (
            "prepare",
            "--dataset",
            "movielens",
            "--raw",
            "{base}/raw",
            "--out",
            "data",
            "--overwrite",
            "--seed",
            "1",
        ),
        ("data",),
    ),
    Scenario(
        "prepare --generate",
        (
            "prepare",
            "--dataset",
            "marketplace",
            "--generate",
            "1000",
            "--raw",
            "raw",
            "--out",
            "made",
        ),
    ),
    Scenario(
        "prepare --append",
        ("prepare", "--append", "--raw", "{base}/more", "--out", "data"),
        ("data",),
    ),
    Scenario(
        "prior graph",
        ("prior", "graph", "--data", "data", "--name", "g", "--groups", "2", "--overwrite"),
        ("data",),
    ),
    Scenario(
        "prior item",
        (
            "prior",
            "item",
            "--data",
            "data",
            "--name",
            "m",
            "--from",
            "{base}/moods.csv",
            "--overwrite",
        ),
        ("data",),
    ),
    Scenario("train", TRAIN),
    Scenario("train, checkpoints beside", (*TRAIN, "training.checkpoint_async=true")),
    Scenario("train --init-from", (*TRAIN, "--init-from", "{base}/run", "seed=1")),
    Scenario("evaluate", ("evaluate", "--run", "run", "--split", "test"), ("run",)),
    Scenario(
        "recommend --out",
        (
            "recommend",
            "--run",
            "{base}/run",
            "--users",
            "all",
            "-k",
            "60",
            "--out",
            "found.parquet",
        ),
    ),
    Scenario("export", ("export", "--run", "{base}/run", "--out", "plain")),
    Scenario("publish", ("publish", "--run", "{base}/run", "--to", "models", "--version", "one")),
    Scenario("report", ("report", "--runs", "{base}/run", "--out", "page")),
    Scenario(
        "plan --plot",
        ("plan", "--items", "1000", "--dim", "8", "--ranks", "1,2", "--plot", "plan.png"),
    ),
    Scenario(
        "experiment", ("experiment", "{base}/one.toml", "--data", "{base}/data", "--out", "out")
    ),
    Scenario(
        "train from a store, whose cache is the disk",
        ("train", "--config", str(SMALL), "--data", "{address}", "--run", "run", *BUDGET),
        environment=(("TORCHREC_PRIORS_CACHE", "cache"),),
        ignored=r"cache/(?!files/).*|run/data\.json",
    ),
)


def named(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


def fill_up(scenario: Scenario, base: Path, moments: int, seed: int) -> list[str]:
    """The disk is full at so many moments; what was said, one line a moment that was met."""
    disk, whole = _whole(scenario, base)
    chance, said = random.Random(seed), []
    most = whole.peak - whole.start
    for number in range(moments):
        scenario.start(disk, base)
        disk.leave(0 if number == 0 else chance.randrange(most))
        ended = scenario.run(disk, base)
        there = contents(disk.folder)
        if ended.code:
            _check_says_room(ended)
            said.append(ended.err)
            assert not (left := sorted(path for path in there if _is_hidden(path))), (
                f"{left} left by: {ended.err}"
            )
        _check_nothing_half(scenario, whole, there, ended)
        disk.make_room()
        _check_ends_right(scenario, whole, disk, base, ended)
    return said


def _check_says_room(ended: Ended) -> None:
    if (
        "failed: " in ended.err and "error: " not in ended.err
    ):  # a run of an experiment, whose table says why
        assert ended.code == 1
        assert "make room" in ended.out
        assert "Traceback" not in ended.out + ended.err
        return
    too_large = (
        " left: give at most " in ended.err
    )  # seen before anything is made: a number to change
    ended.check_one_line(2 if too_large else 1)
    assert too_large or "make room" in ended.err, ended.err


def kill(scenario: Scenario, base: Path, times: int, seed: int) -> int:
    """It is killed so many times, each anew; how often that met it."""
    disk, whole = _whole(scenario, base)
    chance, met = random.Random(seed), 0
    for _ in range(times):
        scenario.start(disk, base)
        ended = scenario.run(disk, base, kill_after=chance.uniform(0.1, 1.0) * whole.seconds)
        met += ended.code == -9
        _check_nothing_half(scenario, whole, contents(disk.folder), ended)
        _check_ends_right(scenario, whole, disk, base, ended)
    return met


def forbid(scenario: Scenario, base: Path, files: int, seed: int) -> None:
    """It may not write in its folder; then it may not read one of its files, of so many."""
    disk, whole = _whole(scenario, base)
    scenario.start(disk, base)
    disk.folder.chmod(0o555)
    for path in disk.folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = contents(disk.folder)
    ended = scenario.run(disk, base, unprivileged=True)
    disk.folder.chmod(0o755)
    _check_forbidden(ended)
    assert contents(disk.folder) == before
    paths = sorted(
        path for name in scenario.holds for path in (base / name).rglob("*") if path.is_file()
    )
    for path in random.Random(seed).sample(paths, min(files, len(paths))):
        scenario.start(disk, base)
        unreadable = disk.folder / path.relative_to(base)
        unreadable.chmod(0)
        ended = scenario.run(disk, base, unprivileged=True)
        unreadable.chmod(0o644)
        if ended.code:
            _check_forbidden(ended)
        _check_nothing_half(scenario, whole, contents(disk.folder), ended)
        _check_ends_right(scenario, whole, disk, base, ended)


@dataclass(frozen=True)
class Whole:
    """What comes of a command that nothing happens to."""

    before: dict[str, str]
    after: dict[str, str]
    start: int
    peak: int
    seconds: float


def _whole(scenario: Scenario, base: Path) -> tuple[Disk, Whole]:
    disk = Disk(base / "disk")
    scenario.start(disk, base)
    before, start = contents(disk.folder), disk.used
    ended = scenario.run(disk, base)
    assert ended.code == 0, ended
    return disk, Whole(before, contents(disk.folder), start, ended.peak, ended.seconds)


def _check_nothing_half(
    scenario: Scenario, whole: Whole, there: dict[str, str], ended: Ended
) -> None:
    """Every file that one sees is as it was, or as it is in the end."""
    for path, content in there.items():
        if (
            path.endswith("/")
            or _is_hidden(path)
            or _GROWING.fullmatch(path)
            or re.fullmatch(scenario.ignored, path)
        ):
            continue
        assert content in (whole.before.get(path), whole.after.get(path)), (
            f"half-written: {path}\n{ended}"
        )


def _check_ends_right(
    scenario: Scenario, whole: Whole, disk: Disk, base: Path, first: Ended
) -> None:
    """The same command goes on to the same end, where it has not come to it."""
    if not _differing(scenario, whole, contents(disk.folder)):
        return
    ended = scenario.run(disk, base)
    assert ended.code == 0, f"{first}\nthen {ended}"
    assert not (wrong := _differing(scenario, whole, contents(disk.folder))), (
        f"{wrong}\n{first}\nthen {ended}"
    )


def _differing(scenario: Scenario, whole: Whole, there: dict[str, str]) -> list[str]:
    free = rf"{scenario.ignored}|(.*/)?(events|logs)/.*"
    paths = sorted({*whole.after, *there})
    return [
        path
        for path in paths
        if there.get(path) != whole.after.get(path) and not re.fullmatch(free, path)
    ]


def _check_forbidden(ended: Ended) -> None:
    ended.check_one_line(2)
    assert "ermission denied" in ended.err, ended.err


def contents(folder: Path) -> dict[str, str]:
    """By path in a folder, what its files hold but for times, as short texts."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or path.is_file():
            name = str(path.relative_to(folder))
            # events' files have a time in their names
            found[re.sub(r"(events/).*", r"\1*", name)] = _content(path)
        elif not any(path.iterdir()):
            found[f"{path.relative_to(folder)}/"] = ""
    return found


def _content(path: Path) -> str:
    data = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        try:
            lines = (
                [json.loads(data)]
                if path.suffix == ".json"
                else [json.loads(line) for line in data.splitlines()]
            )
            data = json.dumps([_without_times(line) for line in lines]).encode()
        except ValueError:
            pass
    elif path.name == "results.parquet":
        rows = [_without_times(row) for row in pq.read_table(path).to_pylist()]
        data = json.dumps(rows, default=str).encode()
    elif path.name == ".metadata":  # of a checkpoint, which has a number of its own
        data = b""
    elif path.suffix in (".html", ".md"):
        data = re.sub(rb"\d+(\.\d+)? s\b", b"", data)
    return hashlib.sha256(data).hexdigest()[:16]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_times(inner)
            for key, inner in value.items()
            if not re.search(_ITS_OWN, key)
        }
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def _is_hidden(path: str) -> bool:
    return any(
        part.startswith(".") and part not in (".lock", ".metadata") for part in path.split("/")
    )
