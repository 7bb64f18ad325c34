"""Users' own files in the form of the project's: a corpus, a prior."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from torchrec_priors.errors import UserError


def load_file(file: Path, *, option: str, function: str) -> ModuleType:
    """The module of a Python file that defines `function`.

    Args:
        option: what the user set to the file's path, for messages.

    Raises:
        UserError: no such file, or it defines no such function.
    """
    if not file.is_file():
        raise UserError(f"{option}: there is no file '{file}'")
    spec = importlib.util.spec_from_file_location(f"_torchrec_priors_{function}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise UserError(f"{option}: '{file}' defines no function `{function}`")
    return module


def own_file(specification: str) -> Path | None:
    """The file of a specification such as "mine.py" or "mine.py:argument"; None for a name.

    >>> own_file("mine.py:3").name, own_file("genre")
    ('mine.py', None)
    """
    found = re.fullmatch(r"(.+\.py)(?::.*)?", specification)
    return Path(found[1]) if found else None


def absolute(specification: str) -> str:
    """The same with the whole path of its file, so that it is found from any folder."""
    file = own_file(specification)
    return specification if file is None else f"{file.absolute()}{specification[len(str(file)) :]}"
