"""The pinned torch / torchrec / fbgemm triple, checked without importing any of the three.

Another combination fails much later, as undefined symbols inside a shared library.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType

TRIPLE = {"torch": "2.13.", "torchrec": "1.8.", "fbgemm-gpu": "1.8."}


class VersionMismatchError(ImportError):
    """The installed triple is not one that works together; its message is one line."""


def mismatch() -> str | None:
    """One line that says what does not fit and how to mend it; None where the triple is the pinned one."""
    found = {}
    for package in TRIPLE:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    if all(found[package].startswith(prefix) for package, prefix in TRIPLE.items()):
        return None
    wanted = ", ".join(f"{package} {prefix}*" for package, prefix in TRIPLE.items())
    have = ", ".join(f"{package} {number}" for package, number in found.items())
    return f"torchrec_priors needs {wanted}; found {have}. Run `make install`, or install the pinned versions."


def check() -> None:
    """Raises VersionMismatchError where the triple does not fit; uncaught, it prints as one line."""
    problem = mismatch()
    if problem is None:
        return
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
