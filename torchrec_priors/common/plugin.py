"""What one file adds: a corpus, a prior, a backbone; the project's own by name, users' by path."""

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from torchrec_priors.common.own_code import require_expected
from torchrec_priors.errors import UserError


def load_file(
    file: Path, *, option: str, function: str, arguments: Sequence[str] = ()
) -> ModuleType:
    """The module of a Python file that defines `function`.

    Args:
        option: what the user set to the file's path, for messages.
        arguments: names of what `function` will be called with, by position; none to leave that unchecked.

    Raises:
        UserError: no such file, one that cannot be imported, or one that defines no such function of these arguments.
    """
    if not file.is_file():
        raise UserError(f"{option}: there is no file '{file}'")
    name = f"_torchrec_priors_{function}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_OfSource(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise UserError(f"{option}: {where_it_failed(error, file)}") from error
    defined = getattr(module, function, None)
    if not callable(defined):
        raise UserError(f"{option}: '{file}' defines no function `{function}`")
    if arguments:
        try:
            inspect.signature(defined).bind(*arguments)
        except TypeError as error:
            takes = f"{function}{inspect.signature(defined)}"
            wanted = f"{function}({', '.join(arguments)})"
            raise UserError(
                f"{option}: '{file}' defines {takes} where {wanted} is called ({error})"
            ) from error
    return module


class _OfSource(SourceFileLoader):
    """Runs what the file itself says: something that was compiled beside it may be of another text."""

    def get_code(self, fullname: str) -> CodeType:
        content = self.get_data(self.path)
        require_expected(Path(self.path), content)
        code: CodeType = self.source_to_code(content, self.path)
        return code


def known_files(folder: Path) -> list[str]:
    """Names of the files of a folder that define `load`; they are read as text, as importing them may import torch."""
    return sorted(
        file.stem
        for file in folder.glob("*.py")
        if "\ndef load(" in file.read_text(encoding="utf8")
    )


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


def where_it_failed(error: Exception, file: Path) -> str:
    """A file of the user's with the line of it that an exception came from, and what the exception says."""
    return f"'{file}'{_line(error, file)}: {_short(error)}"


def _line(error: Exception, file: Path) -> str:
    """Where in the file an import of it failed."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    own = [line for name, line in places if line and Path(name).absolute() == file.absolute()]
    return f", line {own[-1]}" if own else ""


def _short(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())}"
