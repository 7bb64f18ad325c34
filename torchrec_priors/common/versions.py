"""Checks the pinned torch / torchrec / fbgemm triple without importing any of the three.

Another combination fails much later, as undefined symbols inside a shared library.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType

TRIPLE = {"torch": "2.13.", "torchrec": "1.8.", "fbgemm-gpu": "1.8."}


class VersionMismatchError(ImportError):
    """The installed triple is not one that works together; its message is one line."""


def mismatch() -> str | None:
    """One line that says what does not fit and the remedy; None if the triple is the pinned one."""
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
        "Run `make install`, or install the pinned versions."
    )


def check() -> None:
    """Raises VersionMismatchError if the triple does not fit; uncaught, it prints as one line."""
    problem = mismatch()
    if problem is None:
        return

    # The check runs at import, where no app can turn the error into one line.
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
