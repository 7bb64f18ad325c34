"""Compiles a C++ file on its first use, if there is a compiler, and keeps the library.

Later processes load a kept library only if it is complete, was compiled from the same source in the
same way, and could not have been written by another user.

Only a C++ compiler is needed: no Python headers, no torch headers, no build tool.
"""

import ctypes
import errno
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from torchrec_priors.common.user_folders import cache_folder, is_private, is_private_status

_log = logging.getLogger(__name__)
# The least number of multiplications for which another thread is worth waking.
ENOUGH = 1 << 21
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
_SEAL = hashlib.sha256().digest_size  # bytes of the checksum at the end of a kept library


@functools.cache
def load_native(source: Path) -> ctypes.CDLL | None:
    """Returns the library of a C++ file. If that is impossible, it logs why and returns None.

    With `TORCHREC_PRIORS_NATIVE=0` in the environment it returns None. The compiler is the one that
    `CXX` names, or g++; if it is missing, clang++.
    """
    if os.environ.get("TORCHREC_PRIORS_NATIVE") == "0":
        return None

    compiler = next(
        filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))), None
    )
    if compiler is None:
        _log.info(
            "%s is not compiled: there is no C++ compiler; PyTorch's own operations are used",
            source.name,
        )
        return None

    try:
        return _library(source, compiler)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        _log.warning(
            "%s is not used (%s): PyTorch's own operations are used",
            source.name,
            reason.strip().splitlines()[0],
        )
        return None


def available(source: Path) -> ctypes.CDLL:
    """Returns the library of a C++ file, which `load_native` has returned before."""
    library = load_native(source)
    assert library is not None
    return library


def threads_for(work: int, enough: int) -> int:
    """Returns with how many threads some work is worth dividing.

    Args:
        work: the number of multiplications, or of other units.
        enough: the least number of them for which another thread is worth waking.
    """
    return min(torch.get_num_threads(), 1 + work // enough)


def _library(source: Path, compiler: str) -> ctypes.CDLL:
    """Returns the kept library if it is complete and private; otherwise compiles it."""
    headers = (header.read_text() for header in sorted(source.parent.glob("*.h")))
    key = hashlib.sha256(
        "\0".join((source.read_text(), *headers, compiler, *_FLAGS, _machine())).encode()
    ).hexdigest()
    folder = _private_folder()
    if folder is None:  # the library is not kept
        with tempfile.TemporaryDirectory(prefix="torchrec-priors-") as temporary:
            built = Path(temporary) / f"{source.stem}.so"
            _compile(source, compiler, built)
            return ctypes.CDLL(str(built))

    library = folder / f"{source.stem}-{key[:16]}.so"
    loaded = _load_kept(library, key)
    if loaded is None:
        _build(source, compiler, library, key)
        loaded = _load_kept(library, key)
    if loaded is None:
        raise OSError(f"'{library}' is not what was written there")
    return loaded


def _private_folder() -> Path | None:
    """Returns the folder of kept libraries.

    If it cannot be created, or if other users could write there, it logs why and returns None.
    """
    try:
        folder = cache_folder() / "native"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_private(folder):
            return folder
        reason = "is another user's, a link, or others may write there"
    except (OSError, RuntimeError) as error:  # read-only, or a user without a home
        _log.info("compiled code cannot be kept (%s): it is compiled for this process only", error)
        return None

    _log.warning(
        "'%s' %s: nothing is loaded from it; code is compiled for this process only",
        folder,
        reason,
    )
    return None


def _build(source: Path, compiler: str, library: Path, key: str) -> None:
    """Compiles a library, appends its seal, and keeps it.

    Other processes may do this at the same time. Each compiles to a temporary file, and the last
    one that is renamed stays.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=library.parent) as temporary:
        built = Path(temporary) / library.name
        _compile(source, compiler, built)

        content = built.read_bytes()
        with built.open("ab") as file:
            file.write(_seal(content, key))
            file.flush()
            os.fsync(file.fileno())
        built.chmod(0o700)
        built.replace(library)
    _log.info("compiled %s in %.1f s: %s", source.name, time.perf_counter() - started, library)


def _compile(source: Path, compiler: str, built: Path) -> None:
    command = [compiler, *_FLAGS, str(source), "-o", str(built)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)


def _load_kept(library: Path, key: str) -> ctypes.CDLL | None:
    """Loads a kept library.

    It returns None if the library is missing, damaged, or compiled from something else, or if other
    users could have written it. The check and the loader read the same open file, so nobody can
    replace it in between.
    """
    try:
        opened = os.open(library, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENOENT:
            _log.warning("'%s' is not loaded (%s): it is compiled again", library, error.strerror)
        return None

    flaw = _flaw(opened, key)
    if flaw is not None:
        os.close(opened)
        _log.warning("'%s' %s: it is compiled again", library, flaw)
        return None

    # The file stays open, so that no other library gets the same descriptor: the loader takes
    # libraries with equal names for the same library.
    by_descriptor = Path(f"/proc/self/fd/{opened}")
    return ctypes.CDLL(str(by_descriptor if by_descriptor.exists() else library))


def _flaw(opened: int, key: str) -> str | None:
    """Returns in words what is wrong with an open library; None if nothing is."""
    if not is_private_status(os.fstat(opened)):
        return "is not loaded, as others could have written it"
    with open(opened, "rb", closefd=False) as file:
        content = file.read()
    body = content[:-_SEAL]
    seal = content[-_SEAL:]
    return None if seal == _seal(body, key) else "is damaged"


def _seal(content: bytes, key: str) -> bytes:
    """Returns the last bytes of a kept library, which no loader reads.

    They are a checksum of the library and of the key, which stands for what it was compiled from.
    """
    return hashlib.sha256(key.encode() + content).digest()


def _machine() -> str:
    """Describes the processor: `-march=native` depends on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(
        sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    )
