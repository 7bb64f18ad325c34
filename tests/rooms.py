"""Apps that meet what only the system can do to them: a full disk, a folder they may not write to, a kill, few files.

A *room* is a process forked from the server of `forks`, with mounts of its own: its small disks are gone with it. It
forks the apps, so that importing them costs nothing.
"""

import ctypes
import importlib
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forks import FORKS

PAGE = 4096
ROOMY = 1 << 30
_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNS, _PRIVATE, _REMOUNT, _READ_ONLY = 0x20000, 1 << 18 | 1 << 14, 32, 1
_SECUREBITS, _ROOT_IS_NOBODY = 28, 0b11
_CAPABILITIES_3 = 0x20080522
_NO_ROOM = "small disks need a root who may mount them"


def in_a_room(function: Callable[..., Any], *arguments: Any, timeout: float = 280) -> Any:
    """What `function` (of a module) returns, called in a room; the test is skipped where there can be none."""
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_room, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        assert receiver.poll(timeout), f"nothing came within {timeout} s"
        kind, value = receiver.recv()
    except EOFError:
        kind, value = "failed", "the room ended without a word"
    finally:
        process.kill()
        process.join()
    if kind == "skipped":
        pytest.skip(value)
    assert kind == "done", value
    return value


def _room(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        if _LIBC.unshare(_NEWNS) or _LIBC.mount(None, b"/", None, _PRIVATE, None):
            sender.send(("skipped", _NO_ROOM))
        else:
            sender.send(("done", function(*arguments)))
    except BaseException:
        sender.send(("failed", traceback.format_exc()))


class Disk:
    """A disk of some size, in a room."""

    def __init__(self, folder: Path, size: int = ROOMY) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._mount(0, size)

    def leave(self, free: int) -> None:
        """Room for so many bytes (whole pages) beside what is there."""
        self._mount(_REMOUNT, self.used + free)

    def make_room(self) -> None:
        self._mount(_REMOUNT, ROOMY)

    def make_read_only(self) -> None:
        self._mount(_REMOUNT | _READ_ONLY, ROOMY)

    @property
    def used(self) -> int:
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_bsize

    def hold(self, sources: dict[str, Path]) -> None:
        """These copies alone, by their names there."""
        self.make_room()
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, source in sources.items():
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, self.folder / name)

    def _mount(self, how: int, size: int) -> None:
        pages = max(1, -(-size // PAGE))  # none would be without a bound
        done = _LIBC.mount(
            b"disk", bytes(self.folder), b"tmpfs", how, f"size={pages * PAGE}".encode()
        )
        assert done == 0, os.strerror(ctypes.get_errno())


@dataclass(frozen=True)
class Ended:
    """How an app ended; `peak` is the most that its disk held on the way."""

    code: int
    out: str
    err: str
    seconds: float
    peak: int = 0

    def check_one_line(self, code: int) -> None:
        """It ended with this code and one line of error, which tells of no Python."""
        told = f"gave {self.code}\n{self.out}\n{self.err}"
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.code == code, told
        assert len(lines) == 1, told
        assert "Traceback" not in self.err, told
        assert "Error" not in lines[0], told
        assert len(lines[0]) < 600, told


def app(
    name: str,
    *arguments: object,
    cwd: Path,
    before: Callable[[], None] = lambda: None,
    disk: Disk | None = None,
    kill_after: float | None = None,
) -> Ended:
    """Runs an app in a fork of this process, a room.

    Args:
        before: called in the fork, for limits of its own.
        disk: what is looked at for `peak`.
        kill_after: seconds until it is killed.
    """
    streams = [os.memfd_create(stream) for stream in ("out", "err")]
    began, peak = time.monotonic(), 0
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        be_the_app(name, [str(part) for part in arguments], cwd, streams, before)
    ended, status = 0, 0
    while not ended:
        if kill_after is not None and time.monotonic() - began >= kill_after:
            _kill_with_children(child)
        if disk is not None:
            peak = max(peak, disk.used)
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.001)
    texts = []
    for stream in streams:
        os.lseek(stream, 0, os.SEEK_SET)
        with os.fdopen(stream, encoding="utf8", errors="replace") as opened:
            texts.append(opened.read())
    return Ended(os.waitstatus_to_exitcode(status), *texts, time.monotonic() - began, peak)


def be_the_app(
    name: str,
    arguments: list[str],
    cwd: Path,
    streams: list[int],
    before: Callable[[], None] = lambda: None,
) -> None:
    """Makes this process, a fork, the app, and ends it.

    Args:
        streams: descriptors for its output and its errors.
    """
    code: Any = 1
    try:
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - lives as long as the process
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        os.chdir(cwd)
        os.environ["OMP_NUM_THREADS"] = "1"
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        before()
        sys.argv = [f"torchrec_priors.apps.{name}", *arguments]
        importlib.import_module(f"torchrec_priors.apps.{name}").main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # as an interpreter does at its end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill_with_children(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(group, signal.SIGKILL)


def without_privileges() -> None:
    """From here on this process, and what it starts, may do what files' modes say, whoever it is."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    nothing = (ctypes.c_uint32 * 6)()
    assert _LIBC.prctl(_SECUREBITS, _ROOT_IS_NOBODY, 0, 0, 0) == 0
    assert _LIBC.capset(ctypes.byref(Header(_CAPABILITIES_3, 0)), ctypes.byref(nothing)) == 0
