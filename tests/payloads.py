"""Files that would run code where somebody trusts them: each leaves a mark in a folder when it is run."""

import pickle
from pathlib import Path


class _Opens:
    """Its pickle makes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def a_pickle(mark: Path) -> bytes:
    return pickle.dumps(_Opens(mark))


def a_module(mark: Path, rest: str = "") -> str:
    """Text of a Python file."""
    return f"open({str(mark)!r}, 'w').close()\n{rest}"
