"""C++ beside a module, compiled on first use where there is a compiler, kept for the next process.

Nothing but a C++ compiler is needed: no Python headers, no torch headers, no build tool.
"""

import ctypes
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

_log = logging.getLogger(__name__)
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")


@functools.cache
def load_native(source: Path) -> ctypes.CDLL | None:
    """The library of a C++ file; None, and a line in the log, where it cannot be had.

    `TORCHREC_PRIORS_NATIVE=0` says that it is not wanted. `CXX` names the compiler, g++ or clang++ else.
    """
    if os.environ.get("TORCHREC_PRIORS_NATIVE") == "0":
        return None
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))), None)
    if compiler is None:
        _log.info("%s is not compiled: there is no C++ compiler; PyTorch's own operations are used", source.name)
        return None
    try:
        return ctypes.CDLL(str(_compiled(source, compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        _log.warning("%s is not used: %s; PyTorch's own operations are", source.name, reason.strip().splitlines()[0])
        return None


def _compiled(source: Path, compiler: str) -> Path:
    key = hashlib.sha256("\0".join((source.read_text(), compiler, *_FLAGS, _machine())).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torchrec_priors"
    library = folder / f"{source.stem}-{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=folder) as own:  # another process may do the same: the last one stays
            built = Path(own) / library.name
            command = [compiler, *_FLAGS, str(source), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            built.replace(library)
        _log.info("compiled %s in %.1f s: %s", source.name, time.perf_counter() - started, library)
    return library


def _machine() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
