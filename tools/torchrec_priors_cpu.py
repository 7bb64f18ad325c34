"""Installs what torchrec-priors needs on a machine without a GPU; no part of CUDA is downloaded.

    pip install --no-deps torchrec-priors
    python -m torchrec_priors_cpu [EXTRA ...]

The wheel contains this file as a module of its own, because the package torchrec_priors cannot be
imported before PyTorch is installed. It uses only the standard library, and pip of the same Python.

Without it, pip would install the CUDA builds: PyTorch's is the one of the package index, and the
CPU build of FBGEMM has another name than the one that torchrec requires. This module asks pip for
PyTorch's CPU build, and gives it an empty distribution `fbgemm-gpu` that requires the CPU build
(docs/decisions/6-the-cpu-build.md).
"""

import base64
import hashlib
import importlib.util
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

NAME = "torchrec-priors"
# PyTorch's page of CPU builds. Their versions end in "+cpu", so no other build is taken for one.
TORCH_PAGE = "https://download.pytorch.org/whl/cpu/torch/"


def main() -> None:
    """Installs the dependencies, and the extras that the arguments name."""
    if not sys.platform.startswith("linux"):
        sys.exit("error: fbgemm-gpu has wheels only for Linux: use Linux, or a Linux container")
    if importlib.util.find_spec("pip") is None:
        sys.exit(f"error: this Python has no pip ({sys.executable}): run python -m ensurepip")
    try:
        version = metadata.version(NAME)
    except metadata.PackageNotFoundError:
        sys.exit(f"error: {NAME} is not installed: run pip install --no-deps {NAME} first")

    # PyTorch comes first and alone, because pip would look at its page for every other package, too.
    _install(
        "--no-deps", "--retries=1", f"--find-links={TORCH_PAGE}", f"torch=={_pinned('torch')}+cpu"
    )
    with TemporaryDirectory() as folder:
        stand_in = write_stand_in(Path(folder), _pinned("fbgemm-gpu"))
        _install(stand_in, f"{NAME}[{','.join(sys.argv[1:])}]=={version}")
    sys.exit(subprocess.run([sys.executable, "-c", "import torchrec_priors"]).returncode)


def write_stand_in(folder: Path, version: str) -> str:
    """Writes a wheel named fbgemm-gpu without code, which requires fbgemm-gpu-cpu.

    Args:
        folder: where it is written.
        version: the version of FBGEMM.

    Returns:
        The path of the wheel.
    """
    wheel = folder / f"fbgemm_gpu-{version}+cpu-py3-none-any.whl"
    inside = f"fbgemm_gpu-{version}+cpu.dist-info"
    about = (
        f"Metadata-Version: 2.1\nName: fbgemm-gpu\nVersion: {version}+cpu\n"
        f"Summary: Stands for fbgemm-gpu on machines without a GPU: requires the CPU build\n"
        f"Requires-Dist: fbgemm-gpu-cpu=={version}\n"
    )
    kind = "Wheel-Version: 1.0\nGenerator: torchrec-priors\nRoot-Is-Purelib: true\n"
    files = {f"{inside}/METADATA": about, f"{inside}/WHEEL": f"{kind}Tag: py3-none-any\n"}
    record = "".join(_recorded(name, text) for name, text in files.items())
    files[f"{inside}/RECORD"] = f"{record}{inside}/RECORD,,\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return str(wheel)


def _install(*arguments: str) -> None:
    """Runs pip; ends the program if it fails."""
    pip = [sys.executable, "-m", "pip", "install", *arguments]
    if subprocess.run(pip).returncode:
        sys.exit(
            f"error: pip has failed (see above): are the package index and {TORCH_PAGE} reachable?"
        )


def _pinned(package: str) -> str:
    """Returns the version of a package that torchrec-priors requires."""
    for requirement in metadata.requires(NAME) or ():
        match = re.fullmatch(rf"{package}==([0-9.]+)", requirement)
        if match is not None:
            return match[1]
    raise AssertionError(f"{NAME} pins {package}")


def _recorded(name: str, text: str) -> str:
    """Returns the line of a file in RECORD."""
    content = text.encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


if __name__ == "__main__":
    main()
