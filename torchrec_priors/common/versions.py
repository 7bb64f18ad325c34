"""Checks that the installed versions of torch, torchrec and fbgemm-gpu work together.

The libraries are not imported for this. Without the check, versions that do not fit would fail
later, with an error about undefined symbols of a shared library.
"""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType

TRIPLE = {"torch": "2.13.", "torchrec": "1.8.", "fbgemm-gpu": "1.8."}


class VersionMismatchError(ImportError):
    """The installed versions do not work together; the message is one line."""


def in_words() -> str:
    """Returns the versions that a report of an error needs, in one line."""
    others = ", ".join(f"{package} {version(package)}" for package in TRIPLE)
    own = sys.modules["torchrec_priors"].__version__
    return f"torchrec-priors {own} ({others}, Python {platform.python_version()})"


def mismatch() -> str | None:
    """Returns a message that names the wrong versions and the remedy; None if all fit."""
    installed = {}
    for package in TRIPLE:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "absent"
    if all(installed[package].startswith(prefix) for package, prefix in TRIPLE.items()):
        return None

    wanted = ", ".join(f"{package} {prefix}*" for package, prefix in TRIPLE.items())
    found = ", ".join(f"{package} {number}" for package, number in installed.items())
    return (
        f"torchrec_priors needs {wanted}; found {found}. "
        "In a clone, run `make install`. Elsewhere, `python -m torchrec_priors_cpu` installs the "
        "builds for CPUs, and `pip install torchrec-priors` those for GPUs."
    )


def check() -> None:
    """Raises VersionMismatchError if the versions do not fit.

    If nobody catches the error, it is printed as one line, without a traceback.
    """
    problem = mismatch()
    if problem is None:
        return

    # The check runs when the package is imported, before an app could catch the error and print it.
    show = sys.excepthook

    def in_one_line(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if isinstance(error, VersionMismatchError):
            sys.stderr.write(f"{error}\n")
        else:
            show(kind, error, trace)

    sys.excepthook = in_one_line
    raise VersionMismatchError(problem)
